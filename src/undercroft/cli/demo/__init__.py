"""`undercroft demo`: two clusters on one machine, shown at their main job.

cluster   a real server: its processes, its configuration, its clients
story     what is shown, a line for every step
"""

from undercroft.cli.demo.story import demo

__all__ = ["demo"]
