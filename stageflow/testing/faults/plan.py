"""Faults as data: what is to be injected, before anything is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from stageflow.testing.faults.injector import FaultInjector, FaultType, inject_fault
from stageflow.testing.faults.options import refused


@dataclass(frozen=True)
class PlannedFault:
    """What `inject_fault` will be given.

    Attributes:
        provider: The name under which the provider is registered.
        fault_type: What goes wrong.
        options: Those of the fault.
    """

    provider: str
    fault_type: FaultType | str
    options: Mapping[str, Any] = field(default_factory=dict)

    def injector(self) -> FaultInjector:
        """A new injector.

        Raises:
            InvalidConfigError: The fault does not fit the provider, or an option the fault.
        """
        return inject_fault(self.provider, self.fault_type, **self.options)

    def to_dict(self) -> dict[str, Any]:
        """The fault as plain values, ready for JSON if its options are."""
        return {"provider": self.provider, "type": str(self.fault_type), **self.options}


@dataclass(frozen=True)
class FaultPlan:
    """Faults to inject together; of two for the same provider, the later is the inner one."""

    faults: tuple[PlannedFault, ...] = ()

    @contextmanager
    def injected(self) -> Iterator[tuple[FaultInjector, ...]]:
        """Inject all of them for the length of a block.

        Yields:
            Their injectors, in order.

        Raises:
            InvalidConfigError: One does not fit; none has been injected then.
        """
        injectors = tuple(fault.injector() for fault in self.faults)
        with ExitStack() as stack:
            for injector in injectors:
                stack.enter_context(injector)
            yield injectors

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, ready for JSON if the faults' options are."""
        return {"faults": [fault.to_dict() for fault in self.faults]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FaultPlan:
        """The plan that `to_dict` has written.

        Raises:
            InvalidConfigError: It is no mapping, or a fault names no provider or no type.
        """
        if not isinstance(plain, Mapping):
            raise refused("plan", "plan", plain, "give what to_dict has written: a mapping")
        return cls(tuple(_planned(plain.get("faults", ()))))


def _planned(faults: object) -> Iterator[PlannedFault]:
    if not isinstance(faults, list | tuple):
        raise refused("plan", "faults", faults, "give a list of faults")
    for fault in faults:
        if not isinstance(fault, Mapping) or not {"provider", "type"} <= fault.keys():
            raise refused("plan", "faults", fault, 'write {"provider": …, "type": …, option: …}')
        options = {name: fault[name] for name in fault if name not in ("provider", "type")}
        yield PlannedFault(fault["provider"], fault["type"], options)
