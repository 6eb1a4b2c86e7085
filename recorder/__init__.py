"""Record routing traces: from models in transformers, by hooks, and from inference servers, by their answers.

Nothing here imports torch before it is needed: ``pip install 'lrcsim[record]'`` brings it.
"""

from lrcsim.recorder.prompts import Prompt, read_prompts
from lrcsim.recorder.session import Progress, Recording, Settings, record

__all__ = ["Progress", "Prompt", "Recording", "Settings", "read_prompts", "record"]
