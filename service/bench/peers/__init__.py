"""`fcs bench peers`: the same encoder and certificates behind other servers, on the same requests.

`plain`, `litserve`, `mosec` and `ray` are those servers, each a program of its own: what a user of
that library would write. `sampler` is what all of them do with a batch of requests; `pilot` decides
how many samples they draw; `run` starts them in turn, `traffic` asks, `split` explains the gain.
"""
