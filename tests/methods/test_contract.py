"""Every registered method passes the contract that is exported to plug-in authors."""

from tissuebench.methods.contract import MethodContract
from tissuebench.methods.registry import all_methods

for _name in all_methods():
    globals()[f"Test{_name.title().replace('_', '')}"] = type(
        f"Test{_name.title().replace('_', '')}", (MethodContract,), {"method": _name}
    )
