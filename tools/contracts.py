"""The import contract for pure packages, checked by import-linter together with the layers.

A pure package computes: it is given the time, the bytes and the chance it needs. The contract follows each
of its imports, also through other packages of ours, to anything on the forbidden list. A listed package that
does not exist is no error, so the list can name the whole architecture from the first day.
"""

from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class PureContract(Contract):
    """No module of `packages` reaches a module of `forbidden` that is outside its own package."""

    type_name = "pure"

    packages = fields.SetField(subfield=fields.StringField())
    forbidden = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Collect the shortest chain of imports from each offending module."""
        packages = sorted(cast("set[str]", self.packages))
        forbidden = sorted(cast("set[str]", self.forbidden))
        chains = [chain for package in packages for chain in _chains_out(graph, package, forbidden)]
        # A package that imports an offender is not listed again for it.
        firsts = {chain[0] for chain in chains}
        told = [chain for chain in chains if not firsts.intersection(chain[1:])]
        output.verbose_print(verbose, f"{len(told)} chains lead out of {len(packages)} packages.")
        return ContractCheck(kept=not told, metadata={"chains": told})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print each chain on a line of its own."""
        for chain in cast("list[tuple[str, ...]]", check.metadata["chains"]):
            output.print_error(" -> ".join(chain), bold=False)
        output.new_line()


def _chains_out(graph: ImportGraph, package: str, forbidden: list[str]) -> list[tuple[str, ...]]:
    targets = [
        module
        for module in graph.modules
        if any(_is_within(module, root) for root in forbidden) and not _is_within(module, package)
    ]
    sources = [module for module in graph.modules if _is_within(module, package)]
    found = [
        graph.find_shortest_chain(importer=source, imported=target)
        for source in sorted(sources)
        for target in sorted(targets)
    ]
    return [chain for chain in found if chain]


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")
