"""What is made of records: lines on disk, who may stand for whom, rows of tables, sets side by side."""
