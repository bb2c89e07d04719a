"""`python -m ts_langchain`: the same as `ts-langchain`, where scripts are not on the path."""

from ts_langchain.cli import main

if __name__ == "__main__":
    main()
