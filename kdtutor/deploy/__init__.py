"""A student that leaves the laptop: ONNX and int8.

onnx.py makes a folder that needs no PyTorch, session.py reads it; int8.py has what quantises.
"""
