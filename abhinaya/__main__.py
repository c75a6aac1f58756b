"""`python -m abhinaya`, which `accelerate launch -m abhinaya` needs."""

from abhinaya.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
