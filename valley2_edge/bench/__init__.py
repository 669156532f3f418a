"""How fast the parts of the model run on this machine, beside what the machine can do at most."""
