"""The architecture. Imports nothing, so that `model.config` is free of torch.

Legend of the shape comments:

B   batch                       H   query heads (value heads in delta layers)
T   new tokens                  KV  key/value heads
S   past + new tokens           Dh  width of an attention head
D   hidden size                 K   key width of a delta head
N   outputs, or image patches   V   value width of a delta head, or the vocabulary
"""
