"""Source code runs nothing that came in as data: no pickles, no remote code, no shells, no open ports, no downloads.

Each rule finds a node of the syntax tree; the lines below it show that it does.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("alignment", "pipelines", "dags", "examples", "benchmarks")
TREES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
CODE_IN_DATA = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
ARCHIVES = {"tarfile", "zipfile"}
CLIENTS = {"aiohttp", "requests", "urllib3", "urllib.request", "huggingface_hub", "httpx"}
HOLDS_NO_WEIGHTS = ("Processor", "ProcessorPil", "Tokenizer", "Scheduler")
LOADERS = {"torch.load", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "eval", "exec"}
Rule = Callable[[ast.AST], bool]


def imports(node: ast.AST) -> set[str]:
    """Modules that a statement imports, with their packages."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return {part for name in names for part in (name, name.split(".")[0])}


def called(node: ast.AST) -> str:
    """Dotted name of what a node calls; empty for any other node."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def given(node: ast.AST) -> dict[str, str]:
    """Keyword arguments of a call, as source text; `**x` under its own name."""
    if not isinstance(node, ast.Call):
        return {}
    return {word.arg or f"**{ast.unparse(word.value)}": ast.unparse(word.value) for word in node.keywords}


def unpickles(node: ast.AST) -> bool:
    """A library that runs code from a file, or a loader that may."""
    if called(node) == "torch.load":
        return given(node).get("weights_only") != "True"
    return bool(imports(node) & CODE_IN_DATA) or called(node) in LOADERS or "allow_pickle" in given(node)


def loads_pickled_weights(node: ast.AST) -> bool:
    """A model from a folder without `use_safetensors=True`: diffusers then falls back to a pickle."""
    name, dot, method = called(node).rpartition(".")
    if method != "from_pretrained" or not dot or name.endswith(HOLDS_NO_WEIGHTS):
        return False
    words = given(node)
    return words.get("use_safetensors") != "True" and not {"**LOCAL", "**local"} & set(words)


def trusts_remote_code(node: ast.AST) -> bool:
    """The switch that lets a model folder bring its own Python."""
    return (isinstance(node, ast.keyword) and node.arg == "trust_remote_code") or (
        isinstance(node, ast.Constant) and node.value == "trust_remote_code"
    )


def restores_state_of_others(node: ast.AST) -> bool:
    """Checkpoints of accelerate, whose custom objects are always unpickled with weights_only=False."""
    return called(node).rpartition(".")[2] in ("register_for_checkpointing", "load_state", "load_custom_state")


def opens_an_archive(node: ast.AST) -> bool:
    """Reading of tar and zip files, whose members would need limits and filters."""
    return bool(imports(node) & ARCHIVES) or called(node) == "shutil.unpack_archive"


def uses_a_shell(node: ast.AST) -> bool:
    """A command line or an expression made of text."""
    return called(node) in SHELLS or given(node).get("shell", "False") != "False"


def listens_everywhere(node: ast.AST) -> bool:
    """An address that other hosts reach."""
    return isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::")


def reads_unsafe_yaml(node: ast.AST) -> bool:
    """YAML that may name Python objects."""
    return called(node) in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all")


def fetches(node: ast.AST) -> bool:
    """A client that can open an address, or the helper of diffusers that does."""
    names = imports(node)
    return bool(names & CLIENTS) or any(name.endswith(".load_image") for name in names)


def leaves_html_as_it_is(node: ast.AST) -> bool:
    """Templates that do not escape what they show."""
    return called(node).rpartition(".")[2] == "Environment" and given(node).get("autoescape") != "True"


RULES: dict[Rule, tuple[set[str], str, str]] = {
    unpickles: (set(), "import dill", "torch.load(p, weights_only=True)"),
    loads_pickled_weights: (set(), "CLIPModel.from_pretrained(p)", "M.from_pretrained(p, use_safetensors=True)"),
    trusts_remote_code: (set(), "load(p, trust_remote_code=True)", "load(p)"),
    restores_state_of_others: (set(), "accelerator.load_state(p)", "module.load_state_dict(p)"),
    opens_an_archive: (set(), "from tarfile import open", "open(p)"),
    uses_a_shell: (set(), "subprocess.run(c, shell=True)", "subprocess.run([c])"),
    listens_everywhere: (set(), "serve('0.0.0.0')", "serve('127.0.0.1')"),
    reads_unsafe_yaml: (set(), "yaml.load(t)", "yaml.safe_load(t)"),
    fetches: (
        {
            "pipelines/dispatch/engines/ray.py",  # names the errors of Ray's client
            "pipelines/dispatch/hub.py",  # a base from the hub: pinned, and no pickles; pushes to the hub
            "pipelines/platform/checks/clock.py",  # the time of the store's server and of MLflow's
            "pipelines/platform/compose/mlflow_user.py",  # servers of the stack, under the names of their services
            "pipelines/platform/compose/probe.py",
            "pipelines/platform/dag_states.py",  # Airflow's API, and health of own servers
            "pipelines/platform/health.py",
            "pipelines/platform/rest.py",
            "pipelines/platform/services.py",
            "pipelines/tracking/errors.py",  # names the errors of MLflow's client
        },
        "from diffusers.utils import load_image",
        "from urllib.parse import urlsplit",
    ),
    leaves_html_as_it_is: (
        {"pipelines/release/pages/model_card.py"},  # Markdown: its filter `escaped` escapes
        "Environment(autoescape=False)",
        "Environment(autoescape=True)",
    ),
}
"""Rule to the files that may break it, a line that breaks it, and one that keeps it."""


def broken(tree: ast.AST, rule: Rule) -> Iterator[int]:
    """Lines that break a rule."""
    return (getattr(node, "lineno", 0) for node in ast.walk(tree) if rule(node))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_source_file_breaks_a_rule(rule: Rule) -> None:
    files = {file for file, tree in TREES.items() if any(broken(tree, rule))}
    assert files == RULES[rule][0], f"{rule.__doc__}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_finds_the_line_that_breaks_it(rule: Rule) -> None:
    _, bad, good = RULES[rule]
    assert list(broken(ast.parse(bad), rule))
    assert not list(broken(ast.parse(good), rule))
