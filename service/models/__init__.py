"""Tensors: noise, encoders, the smoothed function itself, and where models come from.

noise.py      (seed, stage, index) -> exact noise on a grid of pixel levels
encoder.py    the one interface of all encoders
families.py   Hugging Face encoders;  lite0.py  the embedded default
processors.py Hugging Face image processor -> our Preprocessing
text.py       text towers: label -> unit direction
label_sets.py named sets of labels;  prototypes.py  sets made of a few pictures
pipeline.py   f: noisy levels -> unit features
lanes.py      CPU workers side by side
packages.py   model packages: manifests under model_store/
distributions.py  files inside installed Python distributions
store.py      name, hub id or folder -> a LoadedModel, digests verified
"""
