"""Encoded bytes -> RGB picture -> the 8-bit tensor x: Pillow and numpy only.

decode.py: what is accepted and how it looks; preprocess.py: how it becomes the encoder's input.
"""
