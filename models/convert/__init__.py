"""Foreign checkpoints: one rename table per source, one strict engine for both directions."""

from . import thudm, transformer_xl
from .engine import CheckpointError, Source, to_ours, to_theirs
from .flash import FLASH
from .flash_quad import FLASH_QUAD
from .gau_alpha import GAU_ALPHA
from .lucidrains_flash import LUCIDRAINS_FLASH

SOURCES = {source.name: source for source in (GAU_ALPHA, FLASH_QUAD, FLASH, LUCIDRAINS_FLASH)}

__all__ = ["SOURCES", "CheckpointError", "Source", "thudm", "to_ours", "to_theirs", "transformer_xl"]
