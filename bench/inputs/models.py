"""What of a model can be checked without building it. No torch."""

from fmnist_core.config import CellConfig, CitedModel, input_shape
from fmnist_core.models import networks
from fmnist_core.models.catalogue import CITED
from fmnist_core.models.layers import trace
from fmnist_core.nearest import nearest

SYSTEMS = sorted({cited.system for cited in CITED})


def check_model(cell: CellConfig) -> None:
    """A cited system must be one; every layer of a network that is a plain sequence must fit the images."""
    if isinstance(cell.model, CitedModel) and cell.model.system not in SYSTEMS:
        raise ValueError(f"model.system = '{cell.model.system}': unknown{nearest(cell.model.system, SYSTEMS)}; "
                         f"allowed: {', '.join(SYSTEMS)}")
    layers = networks.layers_of(cell.model)
    if layers is not None:
        trace(layers, input_shape(cell.data))
