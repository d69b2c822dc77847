"""Help on the fields of configs, suggestions for unknown ones, and shell completion."""

import argparse
import difflib
import functools
import importlib
import inspect
import re
import shlex
from collections.abc import Sequence

from jaxpt.errors import require

# What other programs call a field, without punctuation → fields, the first of which a config has.
MEANINGS = {
    **dict.fromkeys(
        (
            "epochs",
            "numepochs",
            "maxepochs",
            "nepochs",
            "steps",
            "numsteps",
            "maxsteps",
            "totalsteps",
        ),
        ("duration",),
    ),
    **dict.fromkeys(("iterations", "maxiters", "trainsteps", "length"), ("duration",)),
    **dict.fromkeys(
        ("lr", "learningrate", "rate", "baselr", "blr", "lrs", "stepsize"),
        ("optimizer.learning_rate", "learning_rates"),
    ),
    **dict.fromkeys(
        ("wd", "weightdecay", "decay", "l2"), ("optimizer.weight_decay", "weight_decays")
    ),
    **dict.fromkeys(("bs", "batch", "batchsize", "trainbatchsize", "b"), ("batch_size",)),
    **dict.fromkeys(("accumulate", "accumsteps", "gradaccum", "microbatch"), ("micro_batches",)),
    **dict.fromkeys(("warmupepochs", "warmupsteps"), ("optimizer.warmup", "warmup")),
    **dict.fromkeys(
        ("clip", "gradclip", "clipgrad", "maxgradnorm", "gradclipnorm"), ("optimizer.clip_norm",)
    ),
    **dict.fromkeys(("opt", "optim"), ("optimizer.name",)),
    **dict.fromkeys(("lossfn", "loss", "algorithm", "objective"), ("method",)),
    **dict.fromkeys(("tau", "temp", "t"), ("temperature",)),
    **dict.fromkeys(
        ("queue", "queuesize", "memorysize", "banksize", "negatives", "moco_k"), ("memory",)
    ),
    **dict.fromkeys(("neighbours", "neighbors", "numneighbors", "knn", "topk"), ("look.k",)),
    **dict.fromkeys(("emadecay", "momentumencoder", "mocom", "targetmomentum"), ("ema",)),
    **dict.fromkeys(
        ("arch", "architecture", "network", "backbone", "modelname", "encoder"), ("model.name",)
    ),
    **dict.fromkeys(("pretrained", "init", "checkpoint", "initfrom"), ("model.weights",)),
    **dict.fromkeys(("precision", "fp16", "bf16", "amp", "halfprecision"), ("model.dtype",)),
    **dict.fromkeys(("featdim", "outdim", "projdim", "embeddim"), ("model.projector.dim",)),
    **dict.fromkeys(("gradientcheckpointing", "checkpointing"), ("model.remat",)),
    **dict.fromkeys(("dataset", "datasetname", "set"), ("data.source",)),
    **dict.fromkeys(
        ("folder", "datapath", "datadir", "dir", "root", "images", "traindir", "input"),
        ("data.path",),
    ),
    **dict.fromkeys(
        ("size", "imgsize", "imagesize", "resolution", "imsize", "inputsize", "side"),
        ("data.image_size",),
    ),
    **dict.fromkeys(("labels", "levels", "level", "coarse"), ("data.label_map",)),
    **dict.fromkeys(
        ("imbalance", "imbfactor", "imbratio", "imbalanceratio", "longtailed"), ("data.long_tail",)
    ),
    **dict.fromkeys(("labelnoise", "noise", "noisylabels", "noiserate"), ("data.wrong_labels",)),
    **dict.fromkeys(("sampler", "classbalanced", "oversampling"), ("data.sampling",)),
    **dict.fromkeys(("sam", "rho", "sharpness"), ("rw_sam.rho",)),
    **dict.fromkeys(("numworkers", "threads", "nworkers"), ("data.workers",)),
    **dict.fromkeys(("cropsize",), ("augment.crop_size", "crop")),
    **dict.fromkeys(("scale", "mincrop", "cropscale"), ("augment.crop_area",)),
    **dict.fromkeys(("hflip", "horizontalflip"), ("augment.flip",)),
    **dict.fromkeys(("colorjitter", "colourjitter", "jitterstrength"), ("augment.jitter",)),
    **dict.fromkeys(("grayscale", "greyscale", "gray"), ("augment.grey",)),
    **dict.fromkeys(("crops", "ncrops", "numcrops", "multicrop"), ("local_views",)),
    **dict.fromkeys(("nviews", "numviews"), ("views",)),
    **dict.fromkeys(("smoothing",), ("cross_entropy.label_smoothing", "label_smoothing")),
    **dict.fromkeys(("logfreq", "logsteps", "printfreq", "loginterval"), ("log_every",)),
    **dict.fromkeys(
        ("saveevery", "savefreq", "checkpointfreq", "saveinterval", "savesteps"),
        ("checkpoint_every",),
    ),
    **dict.fromkeys(("evalevery", "evalfreq", "evalinterval", "evalsteps"), ("knn_every",)),
    **dict.fromkeys(("gpus", "ngpus", "numgpus", "tpus", "numdevices"), ("devices",)),
    **dict.fromkeys(("randomseed", "randomstate"), ("seed", "seeds")),
    **dict.fromkeys(("fsdp", "zero"), ("param_sharding",)),
    **dict.fromkeys(("nshots", "fewshot", "kshot"), ("data.shots",)),
    **dict.fromkeys(("labelfraction", "labelshare", "labeledratio"), ("data.labelled_share",)),
    **dict.fromkeys(("testsplit", "holdout", "valsplit", "testsize"), ("data.test_share",)),
}
CLOSE, MISSPELT = 0.75, 0.85  # least similarity of suggested names, and of misspelt ones


@functools.cache
def comments(kind: str) -> dict[str, str]:
    """Comments of the fields and sections of the default config of a kind, by dotted name."""
    module = importlib.import_module(f"jaxpt.configs.{kind}.defaults")
    source = inspect.getsource(module.get_config)
    return dict(re.findall(r"(?m)^    c\.([\w.]+) = .*?  # (.*)$", source))


def comment(kind: str, name: str) -> str:
    """Comment of a field; without one, that of the field of this name that it is a copy of."""
    section, _, field = name.rpartition(".")
    usual = comments("pretrain")
    for known, other in (
        (comments(kind), name),
        (usual, name),
        (usual, f"{section.removeprefix('key_').removeprefix('local_')}.{field}"),
        (usual, f"model.projector.{field}"),
    ):
        if other in known:
            return known[other]
    return ""


def flat(config, prefix: str = "") -> dict[str, object]:
    """Values of all fields by their dotted names; empty sections have the value {}."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if hasattr(value, "items") and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = {} if hasattr(value, "items") else value
    return found


def listing(kind: str, config, wanted: str = "") -> str:
    """Lines of help on the fields of a config, by section.

    Args:
      kind: of the config, pretrain or transfer.
      config: whose values are shown.
      wanted: a section or field, such as "optimizer" or "look.k"; "" lists all.

    Raises:
      InputError: if there is no such section or field.
    """
    fields = flat(config)
    if wanted:
        name = wanted.removeprefix("--").removeprefix("config.")
        chosen = {n: v for n, v in fields.items() if n == name or n.startswith(f"{name}.")}
        if not chosen:  # raises
            require(
                False, f"the config has no field or section {name!r}: {suggestion(config, name)}"
            )
        fields = chosen
    groups: dict[str, list[str]] = {}
    for name in fields:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    width = min(max(len(f"{name}={value}") for name, value in fields.items()), 46)
    lines = []
    for group in sorted(groups, key=lambda group: group != ""):  # the fields of no section first
        about = comments(kind).get(group, "")
        lines.append(f"\n{group or 'general'}{f': {about}' if about else ''}")
        for name in groups[group]:
            setting = f"{name}={fields[name]}"
            said = comment(kind, name)
            lines.append(f"  {setting:<{width}}  {said}".rstrip())
    return "\n".join(lines).strip("\n")


def nearest(config, key: str) -> list[str]:
    """At most three fields that an unknown one may mean, by name or by meaning."""
    names = list(flat(config))
    section, _, last = key.rpartition(".")
    plain = re.sub(r"[^a-z0-9]", "", last.lower())
    meant = [name for name in MEANINGS.get(plain, ()) if name in names]
    same = [name for name in names if name.rpartition(".")[2] == last]
    by_last = {name.rpartition(".")[2]: name for name in reversed(names)}
    # Long sections make names alike that have nothing in common but the section.
    within = [name for name in names if _ratio(name.rpartition(".")[2], last) > 0.5]
    alike = difflib.get_close_matches(key, within, 2, CLOSE)
    misspelt = difflib.get_close_matches(key, within, 1, MISSPELT) if section else []
    alike += [by_last[n] for n in difflib.get_close_matches(last, by_last, 2, CLOSE)]
    found = meant[:1] or misspelt or sorted(same, key=len) or alike
    found = [name for name in found if section and name.startswith(f"{section}.")] or found
    return list(dict.fromkeys(found))[:3]


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def suggestion(config, key: str) -> str:
    """The end of a sentence about an unknown field: what it may mean, or what there is."""
    here, walked = config, []
    for part in key.split("."):
        if not hasattr(here, "keys") or part not in here:
            break
        here = here[part]
        walked.append(part)
    if not hasattr(here, "keys"):
        return f"{'.'.join(walked)} has no fields."
    found = nearest(config, key)
    if found:
        return f"did you mean {' or '.join(map(repr, found))}?"
    return f"{'.'.join(walked) or 'it'} has {', '.join(here) or 'no fields'}."


def assignments(config) -> str:
    """The config as flags, one a line, which a shell reads back as they are."""
    return "\n".join(
        shlex.quote(f"--config.{name}={value}")
        for name, value in flat(config).items()
        if value != {}
    )


def completion(shell: str, parser: argparse.ArgumentParser, words: dict[str, Sequence[str]]) -> str:
    """A script that completes the command in bash or zsh.

    Args:
      shell: "bash" or "zsh".
      parser: of the command line.
      words: command → further words that may follow it.
    """
    cases, known_commands = [], commands(parser)
    for name, command in known_commands.items():
        known = [*below(command), *words.get(name, ())]
        for action in command._actions:
            options = [o for o in action.option_strings if o.startswith("--")]
            known += options
            known += [f"{option}={choice}" for option in options for choice in action.choices or ()]
        cases.append(f"    {shlex.quote(name)}) words={shlex.quote(' '.join(known))} ;;")
    top = " ".join(name for name in known_commands if " " not in name)
    script = _BASH.format(top=top, cases="\n".join(cases))
    return (_ZSH if shell == "zsh" else "") + script


_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"
_BASH = """_jaxpt() {{
  local cur command words
  cur="${{COMP_LINE:0:COMP_POINT}}"; cur="${{cur##* }}"
  command="${{COMP_WORDS[1]}}"
  [[ "$command" == data && $COMP_CWORD -gt 2 ]] && command="data ${{COMP_WORDS[2]}}"
  if [[ $COMP_CWORD -le 1 ]]; then
    words="{top}"
  else
    case "$command" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  # Paths: of a word that is no option, and after the equals sign of one without known values.
  if [[ ${{#COMPREPLY[@]}} -eq 0 && $COMP_CWORD -gt 1 ]]; then
    COMPREPLY=($(compgen -f -- "${{cur#*=}}"))
    compopt -o filenames 2>/dev/null
    return
  fi
  # bash splits words at "=": only what follows the last one is replaced.
  if [[ "$cur" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
    COMPREPLY=("${{COMPREPLY[@]#"${{cur%=*}}="}}")
  fi
  [[ ${{#COMPREPLY[@]}} -eq 1 && "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace 2>/dev/null
}}
complete -F _jaxpt jaxpt
"""


def commands(
    parser: argparse.ArgumentParser, prefix: str = ""
) -> dict[str, argparse.ArgumentParser]:
    """Parsers of all commands and subcommands by name, such as "data check"."""
    found = {}
    for name, command in below(parser).items():
        found[prefix + name] = command
        found |= commands(command, f"{prefix}{name} ")
    return found


def below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(
        (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {}
    )
