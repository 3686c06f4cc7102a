"""The ``innerloop`` command: a front on the library, nothing more."""

import sys
from collections.abc import Sequence

from innerloop.commands import COMMANDS, parse, usage
from innerloop.errors import Diverged, InputError, nearest
from innerloop.outer import Stopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for bad input, 1 for a run that diverged, 128 + n for signal n."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage(COMMANDS))
            return 0
        if words[0] == "--version":
            from innerloop import __version__

            print(__version__)
            return 0
        if words[0] not in COMMANDS:
            raise InputError(f"no command {words[0]!r}; {nearest(words[0], COMMANDS)}")
        shape, command = COMMANDS[words[0]]
        command(words[1:] if shape is None else parse(shape, words[1:], f"innerloop {words[0]}"))
    except InputError as problem:
        print(f"innerloop: {_one_line(problem)}", file=sys.stderr)
        return 2
    except Diverged as problem:
        print(f"innerloop: {_one_line(problem)}", file=sys.stderr)
        return 1
    except Stopped as stop:
        print(f"innerloop: {_one_line(stop)}", file=sys.stderr)
        return 128 + stop.signal_number
    except OSError as problem:
        print(f"innerloop: {_one_line(problem)}; name a file that can be read and written", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("innerloop: stopped; what was saved stays, and a run that began goes on with --resume", file=sys.stderr)
        return 130
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())


def console() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
