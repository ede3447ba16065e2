"""300 strings that a careless script would run, split, expand or lose. `owned` is a command that must never run."""

from __future__ import annotations

from itertools import cycle, islice

COUNT = 300

TABLE = (
    # quotes
    *("'", '"', "''", '""', "it's", 'say "hi"', "'; owned; '", '"; owned; "', "'$(owned)'", '"$(owned)"', "\"'\"'"),
    # expansions
    *("$(owned)", "`owned`", "$( owned", "`owned", "$((1+1))", "$[owned]", "${HOME}", "$HOME", "$", "$$", "$0"),
    *("$1x", "${x:-$(owned)}", "${x:=owned}", "${!HOME}", "${x@P}", "$'\\x24(owned)'", '$"owned"', "$IFS"),
    *("a${IFS}owned", "$é", "${HOME", "$(<owned)", "\\$(owned)", "\\`owned\\`", "$\\(owned)"),
    # commands after commands
    *(";owned", "; owned #", "& owned", "&& owned", "|| owned", "| owned", "a|owned", "> owned", ">(owned)"),
    *("<(owned)", "< owned", "2>&1", "\nowned\n", "a\nowned", "\r\nowned", "\rowned", "a\n\nowned", "owned"),
    *("eval owned", "exec owned", "trap owned EXIT", "owned()", "() { owned; }; owned", "function owned"),
    *("alias ls=owned", "source owned"),
    # the grammar of bash
    *("}", "{ owned; }", ")", "(", "( owned )", "]]", "[[ -z", "fi; owned", "done; owned", "esac; owned;;", ";;"),
    *("then", "<<EOF\nowned\nEOF", "EOF\nowned", "<<<owned", "'\nowned\n'", '"\nowned\n"', "\\\nowned", "#"),
    *(" # owned", "#owned"),
    # globs, braces, tildes, history
    *("*", "?", "[a-z]*", "**", "{a,b}", "{1..3}", "{owned,}", "~", "~root", "~/x", "a:~", "!!", "!owned"),
    *("^a^owned", "!$"),
    # words that look like options, assignments, subscripts
    *("-n", "-c", "-c owned", "--", "--help", "-", "-e owned", "--wrap=owned", "A=b", "A=$(owned)", "PATH=."),
    *("[0]=owned", "[$(owned)]=1", "a[$(owned)]", "a[owned]=1", "=", "+=", "@", "bash -c owned", "-x\nowned"),
    # Slurm
    *("#SBATCH --wrap=owned", "\n#SBATCH --nodes=99", "\n#SBATCH --output=owned", "%j", "%%", "%x-%u", "%s%n", "%"),
    *("%5t", "a #SBATCH --nodes=99", '" --wrap=owned "', "\u2028#SBATCH --nodes=99", "\x85#SBATCH --nodes=99"),
    # backslashes and white space
    *("\\", "\\\\", "\\n", "\\'; owned", '\\"; owned', "a\\", "\\t", "\\x41", "\\0", " ", "  two  spaces  ", "\t"),
    *("\t\towned", "a\tb", "\v\f", "\n", "\n\n", " leading", "trailing ", "trailing\n", ""),
    # terminals and unicode
    *("\x1b[31mred\x1b[0m", "\x1b]0;owned\x07", "\x7f", "\x01\x02", "\b\b", "\u2028owned", "\u2029owned"),
    *("\x85owned", "\u202eowned", "\u2066owned\u2069", "\ufeffowned", "\u200bowned", "é", "e\u0301", "漢字", "😀"),
    *("\u00a0owned", "ſ"),
    # numbers, names, paths
    *("null", "true", "0", "-1", "1e9", "0x10", "..", "../../owned", "/", "//", "a/b", ":", "a:b", ",", "a,b", "+"),
    *("^", "%-"),
    # long ones
    *("x" * 3000, "$(owned)" * 100, "'" * 200, '"\\' * 100, "owned; " * 100, "é" * 500),
)  # fmt: skip
BETWEEN = ("", " ", "\n", ";", "'", '"', "`", "\\", "$(", "&&")


def hostile() -> list[str]:
    """The table, then pairs of it, always the same ones: COUNT different strings."""
    partners = islice(cycle(TABLE), 37, None)
    pairs = (a + between + b for a, between, b in zip(cycle(TABLE), cycle(BETWEEN), partners, strict=False))
    found = dict.fromkeys(TABLE)
    while len(found) < COUNT:
        found[next(pairs)] = None
    return list(found)


def file_name(text: str) -> str:
    """The most of a string that the name of a file can be."""
    name = text.replace("/", "_").encode()[:200].decode(errors="ignore")
    return name if name not in ("", ".", "..") else "dots"
