"""`python -m posttrain.cli`: the same as `posttrain`."""

from posttrain.cli.main import entry

if __name__ == "__main__":
    entry()
