"""Training and evaluation of any model; knows torch and nothing of ours.

Open `loop` for the training loop and top-1 accuracy.
"""
