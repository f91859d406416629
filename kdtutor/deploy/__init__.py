"""A student that leaves the laptop.

onnx.py makes a folder that needs no PyTorch, and session.py reads it; int8.py has what quantises, aware.py trains for
it; pruning.py cuts away what is not used; cold.py starts anew;
server.py answers over HTTP.
"""
