"""What the reports for people are made of: headings, and labelled lines."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text


def labelled(console: Console, label: str, text: str) -> None:
    """Print a text beside its label; what does not fit is folded under the text."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=12, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(Text(label), Text(text))
    console.print(grid)


def title(console: Console, text: str) -> None:
    """Print a heading, with an empty line above it."""
    console.print()
    console.print(Text(text, style="bold"))
