"""A student that leaves the laptop.

onnx.py makes a folder that needs no PyTorch, with recurrent.py's help where a student is an LSTM or a GRU, and
session.py reads it; int8.py has what quantises, aware.py trains for it; pruning.py cuts away what is not used; cold.py
starts anew, costs.py and alone.py measure what each takes; browser.py writes a page that runs it, server.py answers
over HTTP.
"""
