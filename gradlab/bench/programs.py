"""What can be counted in a compiled program."""

import re

import jax


def planned_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes that XLA plans for a program's outputs and temporaries, outputs in donated buffers included."""
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def fusions(compiled: jax.stages.Compiled) -> int:
    """The fusions in a program's text: each is a pass over its operands."""
    return len(re.findall(r" fusion\(", compiled.as_text()))
