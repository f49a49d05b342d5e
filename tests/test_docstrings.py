"""The library as its page shows it: every public name says what it takes, returns and raises; every example runs."""

import ast
import doctest
import importlib
import inspect
import re
import textwrap

import pytest
from runs import ROOT

PAGE = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
MODULES = re.findall(r"automodule:: (\S+)", PAGE)
#: What the page says that its examples take for granted.
IMPORTS = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]
#: What a reader calls and can try in a line or two; each has an example.
WITH_EXAMPLE = """
    blocks.AttentionModule blocks.LocalMaskBranch blocks.MaskBranch blocks.ResidualUnit blocks.TrunkBranch
    blocks.channel blocks.mixed blocks.spatial blocks.walk datasets.augment datasets.corrupt_labels
    datasets.load_dataset datasets.transition_matrix show.draw show.explore show.table
    masks.attention_masks masks.localization_score masks.mean_response masks.reference_masks
    counting.count_flops models.create_model counting.describe runs.load_pretrained models.model_spec
    runs.pretrained_record runs.error_interval runs.read_record runs.summary training.evaluate
    training.recipe
""".split()


def of_page():
    """Every public function and class of the library's page, by name."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        listed = getattr(module, "__all__", None)
        for member, value in vars(module).items():
            here = member in listed if listed else getattr(value, "__module__", None) == name
            if here and not member.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
                found[f"{name.removeprefix('ranet_lib.')}.{member}"] = value
                if inspect.isclass(value):
                    found |= {f"{name.removeprefix('ranet_lib.')}.{member}.{key}": method
                              for key, method in own_methods(value)}  # fmt: skip
    return found


def own_methods(kind):
    """The public methods and properties that a class does not take over from Keras or Python."""
    above = [base for base in kind.__mro__[1:] if not base.__module__.startswith("ranet_lib")]
    for key, value in vars(kind).items():
        if key.startswith("_") or any(hasattr(base, key) for base in above) or key == "sublayers":
            continue
        if inspect.isfunction(value) or isinstance(value, property):
            yield key, value


PUBLIC = of_page()
TAKING = {name: value for name, value in PUBLIC.items() if not isinstance(value, property)}


def tree_of(value):
    """The syntax tree of what runs when a function or a class is called."""
    if inspect.isclass(value):
        value = vars(value).get("__post_init__", vars(value).get("__init__"))
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(value)))
    except (OSError, TypeError):  # none of its own, or one that Python has written
        return ast.parse("")


def inner(tree, kinds):
    """Nodes of some kinds that belong to the outermost function, and not to one defined in it."""
    waiting = list(tree.body[0].body) if tree.body else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            continue
        if isinstance(node, kinds):
            yield node
        waiting += ast.iter_child_nodes(node)


def section(docstring, title):
    """The names that a section of a docstring explains, or its text where it explains none; None without one."""
    match = re.search(rf"^{title}:\n((?:    .*\n|\n)+)", docstring + "\n", re.M)
    if not match:
        return None
    lines = [line[4:] for line in match[1].splitlines()]
    return [name.strip("* ") for line in lines if (entry := re.match(r"([\w*][\w*, .]*):(?: |$)", line))
            for name in entry[1].split(",")] or lines  # fmt: skip


def arguments(value):
    """The names of the arguments that a function, or the making of an object, takes by its own code."""
    if inspect.isclass(value):
        if "__init__" not in vars(value):
            return []
        value = value.__init__  # the signature of a layer is hidden by Keras
    return [key for key in inspect.signature(value).parameters if key != "self"]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_says_what_it_is(name):
    first = (PUBLIC[name].__doc__ or "").partition("\n")[0]
    assert first.endswith((".", ":")), f"{name}: the first line must be a sentence; found {first!r}"


@pytest.mark.parametrize("name", TAKING)
def test_public_name_explains_each_of_its_arguments_and_no_other(name):
    value, docstring = TAKING[name], inspect.getdoc(TAKING[name])
    listed = section(docstring, "Args")
    # `kwargs` are Keras's, unless a docstring says what they are.
    own = [key for key in arguments(value) if key != "kwargs" or "kwargs" in docstring]
    if listed is None:  # a sentence is enough where it names them
        assert [key for key in own if f"`{key}" not in docstring] == []
    else:
        assert sorted(listed) == sorted(own)


def test_a_docstring_that_lists_arguments_lists_what_is_returned():
    functions = {name: inspect.getdoc(value) for name, value in TAKING.items() if inspect.isfunction(value)}
    listed = [name for name, docstring in functions.items() if section(docstring, "Args")]
    assert listed and [name for name in listed if not section(functions[name], "Returns")] == []


@pytest.mark.parametrize("name", TAKING)
def test_public_name_says_what_it_raises(name):
    docstring, tree = inspect.getdoc(TAKING[name]), tree_of(TAKING[name])
    raised = {ast.unparse(node.exc.func) for node in inner(tree, ast.Raise) if isinstance(node.exc, ast.Call)}
    calls = [ast.unparse(node.func) for node in inner(tree, ast.Call)]
    if any(call.startswith("checks.") for call in calls):
        raised.add("ValueError")
    said = docstring if "Raises" not in docstring else docstring[docstring.index("Raises") :]
    assert [kind for kind in raised if kind not in said] == []


EXAMPLES = {
    name: test
    for name, value in PUBLIC.items()
    for test in doctest.DocTestFinder(recurse=False).find(value, name, globs={}) if test.examples
}  # fmt: skip


@pytest.fixture(scope="module")
def names():
    """What the examples may use without importing it."""
    namespace = {}
    exec(IMPORTS, namespace)
    return namespace


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_gives_what_it_says(name, names, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: None)  # outside a notebook it would print
    EXAMPLES[name].globs, said = dict(names), []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(EXAMPLES[name], out=said.append)
    assert runner.failures == 0, "".join(said)


def test_what_a_reader_calls_has_an_example():
    assert set(WITH_EXAMPLE) - set(EXAMPLES) == set()
