"""What is known of each cited system: whose it is, what is claimed for it and how that was got. No torch.

One entry for each row of the table of cited systems: `CITED` are networks, `NON_NEURAL` the other models. The cell that
trains it here has the entry's name as its label.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Selection = Literal["last step", "best on test", "early stopping on test", "unknown"]
Release = Literal["old", "current", "unknown"]
Evidence = Literal["primary", "secondary", "remembered", "none"]

AGARAP = "Agarap 2017, arXiv 1712.03541"
BHATNAGAR = "Bhatnagar, Ghosal and Kolekar 2017, ICIIP"
SEO = "Seo and Shin 2019, Expert Systems with Applications 116, 328-339"
NOCENTINI = "Nocentini et al. 2022, Sensors 22(23), 9544"
MESHKINI = "Meshkini, Platos and Ghassemian 2019, IITI, 85-95"
KHANDAY = "Khanday, Dadvandipour and Lone 2021, IJ-AI 10(4), 872"
KEFTH = "github.com/kefth/fashion-mnist"
XIAO = "Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747"
BENCHMARK = "list of results of github.com/zalandoresearch/fashion-mnist"

ABOUT_93 = "The report gives approximately 93 % for five networks together; the authors' own number is unknown."
STAND_IN = "Layers and recipe could not be read: a stand-in, the same for every kernel."
NOT_THEIRS = "Not a run of the authors: the other half of a comparison."
BEST_OF_SETTINGS = "The best on the test set of the settings that the authors tried for this model."
STOPPED = "The author stops by the loss on the test set and keeps the weights that were best on it."


@dataclass(frozen=True, kw_only=True)
class CitedSystem:
    """Accuracies are fractions; None where nobody gives one."""

    name: str
    system: str
    """In `fmnist_core.models.cited`; of a model that is no network, the estimator of `fmnist_core.baselines`."""
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    experiment: str
    source: str
    year: int
    num_parameters: int
    """Trainable, at 28x28; counted from the layers, and equal to what the authors print where they print it. 0: no
    network."""
    multiply_adds: int
    """Of one image's forward pass in evaluation mode, at 28x28: convolutions and Linear layers. 0: no network."""
    authors_accuracy: float | None = None
    """On the test set."""
    evidence: Evidence = "none"
    """Where the authors' number was read: `primary` in their text or code, `secondary` in somebody else's,
    `remembered` in neither."""
    selection: Selection = "unknown"
    """Which of the trained networks that number belongs to."""
    release: Release = "unknown"
    """Of the dataset: `old` is the one from before September 2017, about 0.4 to 0.55 points easier."""
    reported: str = ""
    """The number that the report quotes, in per cent."""
    note: str = ""

    def __post_init__(self) -> None:
        assert (self.authors_accuracy is None) == (self.evidence == "none"), self.name


CITED: tuple[CitedSystem, ...] = (
    CitedSystem(
        name="CNN-Softmax", system="agarap", experiment="cited_agarap", source=AGARAP, year=2017,
        num_parameters=3_274_634, multiply_adds=13_883_904, authors_accuracy=0.9186, evidence="primary",
        selection="last step", reported="91.86"),
    CitedSystem(
        name="CNN-SVM", system="agarap", experiment="cited_agarap", source=AGARAP, year=2017,
        num_parameters=3_274_634, multiply_adds=13_883_904, authors_accuracy=0.9072, evidence="primary",
        selection="last step", reported="90.72",
        note="The author counts hits by argmax(sign(f)), where ties go to the lowest class."),
    CitedSystem(
        name="CNN2", system="bhatnagar_cnn2", experiment="cited_bhatnagar", source=BHATNAGAR, year=2017,
        num_parameters=113_386, multiply_adds=1_413_504, authors_accuracy=0.9117, evidence="remembered",
        selection="best on test", note="A secondary source has 91.61 %."),
    CitedSystem(
        name="CNN2 + BN", system="bhatnagar_bn", experiment="cited_bhatnagar", source=BHATNAGAR, year=2017,
        num_parameters=158_508, multiply_adds=1_701_632, authors_accuracy=0.9222, evidence="secondary",
        selection="best on test", note="Another secondary source has 92.27 %."),
    CitedSystem(
        name="CNN2 + BN + skip", system="bhatnagar_skip", experiment="cited_bhatnagar", source=BHATNAGAR, year=2017,
        num_parameters=211_820, multiply_adds=2_234_112, authors_accuracy=0.9254, evidence="secondary",
        selection="best on test", reported="92.54",
        note="The report cites Vijayaraj et al. 2022 for it, who re-tell the work of 2017."),
    CitedSystem(
        name="H-CNN VGG16", system="hcnn_vgg16", options={"input_scale": 255.0}, experiment="cited_hcnn", source=SEO,
        year=2019, num_parameters=38_755_282, multiply_adds=224_035_840, authors_accuracy=0.9352,
        evidence="remembered", reported="93.52",
        note="No code of the authors; layers and recipe follow a re-implementation on VGG19."),
    CitedSystem(
        name="H-CNN VGG19", system="hcnn_vgg19", options={"input_scale": 255.0}, experiment="cited_hcnn", source=SEO,
        year=2019, num_parameters=44_067_538, multiply_adds=276_530_176, authors_accuracy=0.9333,
        evidence="remembered",
        note="No code of the authors; the re-implementation followed here prints 92.96 % after its last epoch, on the "
             "current release."),
    CitedSystem(
        name="MCNN15", system="mcnn15", experiment="cited_mcnn15", source=NOCENTINI, year=2022,
        num_parameters=2_595_914, multiply_adds=327_182_144, authors_accuracy=0.9404, evidence="primary",
        selection="best on test", release="current", reported="94.04",
        note="Their number is the best of 50 evaluations on a test set that is augmented like the training set; here "
             "the test set is left alone."),
    CitedSystem(
        name="MCNN15, test set augmented", system="mcnn15", experiment="cited_mcnn15", source=NOCENTINI, year=2022,
        num_parameters=2_595_914, multiply_adds=327_182_144, authors_accuracy=0.9404, evidence="primary",
        selection="best on test", release="current", reported="94.04",
        note="As in their code. Not to be compared with any other row."),
    CitedSystem(
        name="AlexNet", system="alexnet", experiment="cited_meshkini", source=MESHKINI, year=2019,
        num_parameters=57_022_154, multiply_adds=657_204_224, reported="about 93", note=ABOUT_93),
    CitedSystem(
        name="AlexNet + BN", system="alexnet", options={"batch_norm": True}, experiment="cited_meshkini",
        source=MESHKINI, year=2019, num_parameters=57_024_458, multiply_adds=657_204_224, note=NOT_THEIRS),
    CitedSystem(
        name="GoogLeNet", system="googlenet", experiment="cited_meshkini", source=MESHKINI, year=2019,
        num_parameters=5_601_322, multiply_adds=354_001_664, reported="about 93",
        note=f"{ABOUT_93} Batch-normalized as in torchvision."),
    CitedSystem(
        name="VGG11", system="vgg11", experiment="cited_meshkini", source=MESHKINI, year=2019,
        num_parameters=28_142_858, multiply_adds=113_738_752, reported="about 93",
        note=f"{ABOUT_93} Which VGG they took is unknown."),
    CitedSystem(
        name="VGG11 + BN", system="vgg11", options={"batch_norm": True}, experiment="cited_meshkini",
        source=MESHKINI, year=2019, num_parameters=28_148_362, multiply_adds=113_738_752, note=NOT_THEIRS),
    CitedSystem(
        name="ResNet18", system="resnet18", experiment="cited_meshkini", source=MESHKINI, year=2019,
        num_parameters=11_172_810, multiply_adds=455_800_832, reported="about 93",
        note=f"{ABOUT_93} Which ResNet they took is unknown."),
    CitedSystem(
        name="DenseNet121", system="densenet121", experiment="cited_meshkini", source=MESHKINI, year=2019,
        num_parameters=6_955_274, multiply_adds=672_320_512, reported="about 93",
        note=f"{ABOUT_93} Which DenseNet they took is unknown."),
    CitedSystem(
        name="SqueezeNet", system="squeezenet", experiment="cited_meshkini", source=MESHKINI, year=2019,
        num_parameters=726_474, multiply_adds=67_035_136,
        note="The authors' number is unknown. Without batch normalization it did not learn here, in one run."),
    CitedSystem(
        name="SqueezeNet + BN", system="squeezenet", options={"batch_norm": True}, experiment="cited_meshkini",
        source=MESHKINI, year=2019, num_parameters=732_362, multiply_adds=67_035_136, authors_accuracy=0.9343,
        evidence="primary", reported="93.43",
        note="The abstract gives 93.43 % for a simple modification of one of the six networks; that it is this one, "
             "with batch normalization, is remembered and not checked."),
    CitedSystem(
        name="Khanday 3x3", system="khanday", options={"kernel_size": 3}, experiment="cited_khanday", source=KHANDAY,
        year=2021, num_parameters=421_642, multiply_adds=4_241_152, authors_accuracy=0.9368, evidence="remembered",
        reported="92.68",
        note=f"{STAND_IN} The report has 92.68 %, the abstract is remembered with 93.68 %; the abstract of another "
             "paper, in ICCCSP 2022, on three convolutional layers, gives 92.68 %."),
    CitedSystem(
        name="Khanday 5x5", system="khanday", options={"kernel_size": 5}, experiment="cited_khanday", source=KHANDAY,
        year=2021, num_parameters=454_922, multiply_adds=11_065_088, note=STAND_IN),
    CitedSystem(
        name="Khanday 7x7", system="khanday", options={"kernel_size": 7}, experiment="cited_khanday", source=KHANDAY,
        year=2021, num_parameters=504_842, multiply_adds=21_300_992, note=STAND_IN),
    CitedSystem(
        name="ResNet18 of kefth, augmented", system="kefth_resnet18", experiment="cited_resnet18", source=KEFTH,
        year=2017, num_parameters=2_776_522, multiply_adds=321_580_544, authors_accuracy=0.949, evidence="primary",
        selection="early stopping on test", release="old", reported="94.9",
        note=f"{STOPPED} Three stages, not the four of a ResNet18. The report cites it as McKenna 2017."),
    CitedSystem(
        name="ResNet18 of kefth", system="kefth_resnet18", experiment="cited_resnet18", source=KEFTH, year=2017,
        num_parameters=2_776_522, multiply_adds=321_580_544, authors_accuracy=0.92, evidence="primary",
        selection="early stopping on test", release="current",
        note=f"{STOPPED} The number of the last README, without augmentation; its year is that of the project."),
    CitedSystem(
        name="ResNet18 of torchvision, augmented", system="resnet18", experiment="cited_resnet18", source=KEFTH,
        year=2017, num_parameters=11_172_810, multiply_adds=455_800_832, note=NOT_THEIRS),
    CitedSystem(
        name="SimpleNet, augmented", system="kefth_simplenet", experiment="cited_kefth_simplenet", source=KEFTH,
        year=2017, num_parameters=421_642, multiply_adds=4_241_152, authors_accuracy=0.919, evidence="primary",
        selection="early stopping on test", release="old", note=STOPPED),
    CitedSystem(
        name="SimpleNet", system="kefth_simplenet", experiment="cited_kefth_simplenet", source=KEFTH, year=2017,
        num_parameters=421_642, multiply_adds=4_241_152, authors_accuracy=0.923, evidence="primary",
        selection="early stopping on test", release="current",
        note=f"{STOPPED} The number of the last README, without augmentation; its year is that of the project."),
    CitedSystem(
        name="hardmaru", system="hardmaru", experiment="cited_hardmaru", source=BENCHMARK, year=2017,
        num_parameters=83_466, multiply_adds=10_693_760, authors_accuracy=0.9247, evidence="primary", release="old",
        note="Not cited by the report."),
)


def _non_neural(name: str, estimator: str, accuracy: float, evidence: Evidence, note: str = "",
                **options: bool | int | float | str) -> CitedSystem:
    """A row of the data set's own benchmark: on standardized pixels, a mean over shuffles of the training set."""
    return CitedSystem(
        name=name, system=estimator, options=options, experiment="cited_non_neural", source=XIAO, year=2017,
        num_parameters=0, multiply_adds=0, authors_accuracy=accuracy, evidence=evidence, selection="best on test",
        note=f"{BEST_OF_SETTINGS} {note}".strip())


NON_NEURAL: tuple[CitedSystem, ...] = (
    _non_neural("Gaussian naive Bayes", "gaussian_nb", 0.511, "remembered",
                "The low end of the report's 51 to 86.8 % for models that are no networks. Pixels that hardly vary "
                "decide it: with a smoothing of 1e-30 instead of scikit-learn's 1e-9 the same fit gives 51.37 % here."),
    _non_neural("Decision tree", "decision_tree", 0.798, "remembered", criterion="entropy", max_depth=10),
    _non_neural("Extra tree", "extra_tree", 0.775, "remembered", "Which of its two splitters is not recorded.",
                criterion="gini", max_depth=10, splitter="best"),
    _non_neural("Random forest", "random_forest", 0.873, "secondary", criterion="entropy", max_depth=100,
                n_estimators=100),
    _non_neural("Gradient boosting", "gradient_boosting", 0.880, "remembered", max_depth=10, n_estimators=100),
    _non_neural("k nearest neighbours", "k_nearest_neighbors", 0.854, "secondary", n_neighbors=5, p=1,
                weights="distance"),
    _non_neural("Logistic regression", "logistic_regression", 0.842, "secondary", C=1.0, l1_ratio=1.0,
                solver="liblinear"),
    _non_neural("Linear SVM", "linear_svm", 0.836, "secondary", C=1.0, loss="hinge"),
    _non_neural("SVM, RBF kernel", "svm", 0.897, "secondary",
                "The best of them all, which the report leaves out.", C=10.0, gamma="auto", kernel="rbf"),
    _non_neural("Passive-aggressive", "passive_aggressive", 0.776, "remembered", eta0=1.0, max_iter=5, tol="none"),
    _non_neural("Perceptron", "perceptron", 0.782, "remembered", max_iter=5, penalty="l1", tol="none"),
    _non_neural("SGD", "sgd", 0.819, "remembered", loss="hinge", max_iter=5, penalty="l2", tol="none"),
    _non_neural("MLP", "mlp", 0.871, "secondary", activation="relu", hidden_layer_sizes=100, n_iter_no_change=2),
)


def by_cell(experiment: str, label: str) -> CitedSystem | None:
    """The entry that this cell trains; None for a cell that is nobody's claim."""
    entries = (*CITED, *NON_NEURAL)
    return next((entry for entry in entries if (entry.experiment, entry.name) == (experiment, label)), None)
