"""The simulated operators, by family. Every module of this package is imported: a new family is a new file.

An operator's comment says where its meaning comes from. Those that torch itself calls compute what torch documents for the
function of the same name (the vendor's manual of aclnn refers to it): their comments name what differs only.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
