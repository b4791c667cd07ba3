"""Write the held-out lists beside the model: `split.py`. They follow from the data and the split's seed."""

import os

import data

MODELS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

if __name__ == "__main__":
    train, watched, examples, pages = data.split(data.load_rows())
    data.write_held_out(os.path.join(MODELS, "heldout-500.tsv"), examples)
    data.write_held_out(os.path.join(MODELS, "heldout-pages.tsv"), sorted(pages))
    print(f"{len(train)} to train on, {len(watched)} to watch, {len(examples)} examples and {len(pages)} of whole pages held out")
