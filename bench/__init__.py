"""Speed and memory of the chat turn and the history page, measured on this machine: `python -m bench`."""
