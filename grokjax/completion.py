"""What makes a shell complete `grokjax`: commands, their options, names of settings, files."""

from __future__ import annotations

import argparse
import shlex

from grokjax.arguments import make_parser
from grokjax.settings.declarations import SETTINGS

_BASH = """\
_grokjax() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words
    if [[ $current == "=" ]]; then current=""; before="="; fi
    if [[ $before == "=" ]]; then
        COMPREPLY=($(compgen -f -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
    *) words={commands} ;;
    esac
    if (( COMP_CWORD == 1 )); then words={commands}; fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [[ ${{#COMPREPLY[@]}} == 0 && $current != -* ]]; then
        COMPREPLY=($(compgen -f -- "$current"))
    elif [[ ${{COMPREPLY[0]}} == *= ]]; then
        compopt -o nospace 2> /dev/null
    fi
}}
complete -o filenames -F _grokjax grokjax
"""
_ZSH = "autoload -Uz bashcompinit && bashcompinit\n"


def script(shell: str) -> str:
    """Of bash or zsh, to be evaluated by it."""
    commands = _commands()
    settings = [f"--config.{name}=" for name in SETTINGS]
    cases = []
    for name, parser in commands.items():
        words = [word for action in parser._actions for word in _words(action)]
        if parser.get_default("takes_settings"):
            words += settings
        cases.append(f"    {name}) words={shlex.quote(' '.join(words))} ;;")
    names = shlex.quote(" ".join([*commands, "--help", "--version"]))
    text = _BASH.format(cases="\n".join(cases), commands=names)
    return (_ZSH if shell == "zsh" else "") + text


def _commands() -> dict[str, argparse.ArgumentParser]:
    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _words(action: argparse.Action) -> list[str]:
    """An argument's: `--option=` where it takes a value, or the choices of one without a name."""
    if not action.option_strings:
        return [str(choice) for choice in action.choices or ()]
    ending = "" if action.nargs == 0 else "="
    return [text + ending for text in action.option_strings if text.startswith("--")]
