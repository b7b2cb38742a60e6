"""What is optimised: tasks as values, and a catalogue of them by name."""

from gradlab.tasks.catalogue import SURFACES, TASKS
from gradlab.tasks.convolution import patch_convolution
from gradlab.tasks.curves import damped_sine, parabola, sine_hill, sine_parabola
from gradlab.tasks.data import Dataset, Text, breast_cancer, decode, diabetes, digits, encode, stdlib_text
from gradlab.tasks.language import language_task, windows
from gradlab.tasks.supervised import flax_task
from gradlab.tasks.surface import Surface, make_surface, surface_task
from gradlab.tasks.surfaces import (
    beale,
    bounded_saddle,
    cliff,
    himmelblau,
    plateau,
    quadratic,
    rosenbrock,
    saddle,
)
from gradlab.tasks.task import Task, bind, make_task

__all__ = [
    "SURFACES",
    "TASKS",
    "Dataset",
    "Surface",
    "Task",
    "Text",
    "beale",
    "bind",
    "bounded_saddle",
    "breast_cancer",
    "cliff",
    "damped_sine",
    "decode",
    "diabetes",
    "digits",
    "encode",
    "flax_task",
    "himmelblau",
    "language_task",
    "make_surface",
    "make_task",
    "parabola",
    "patch_convolution",
    "plateau",
    "quadratic",
    "rosenbrock",
    "saddle",
    "sine_hill",
    "sine_parabola",
    "stdlib_text",
    "surface_task",
    "windows",
]
