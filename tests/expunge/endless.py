"""A child that never ends by itself."""

import threading

if __name__ == "__main__":
    threading.Event().wait()
