"""Contracts of `deepport.ops.cache`: padding is not read, nor is what gets overwritten."""

from deepport.conformance.contract import Arguments, Contract, Masks
from deepport.conformance.contracts.masks import padding, paged, positions_of


def _unread(arguments: Arguments) -> Masks:
    addressed = paged(arguments, "pages", "table", positions_of(arguments))
    overwritten = ~addressed["pages"]
    return padding(arguments, "values", "positions") | {"pages": overwritten, "table": addressed["table"]}


CONTRACTS = {"write_pages_": Contract(unread=_unread), "write_pages": Contract(unread=_unread)}
