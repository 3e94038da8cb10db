"""Chips as data: what is published of them, number by number with its source, and what was probed of a machine at hand."""
