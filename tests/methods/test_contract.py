"""Every registered method passes the contract that is exported to plug-in authors."""

from tissuebench.methods.contract import MethodContract
from tissuebench.methods.registry import all_methods

for _name, _kind in all_methods().items():
    if not _kind.__module__.startswith("tissuebench."):
        continue  # a method that another test made, to fail on purpose
    globals()[f"Test{_name.title().replace('_', '')}"] = type(
        f"Test{_name.title().replace('_', '')}", (MethodContract,), {"method": _name}
    )
