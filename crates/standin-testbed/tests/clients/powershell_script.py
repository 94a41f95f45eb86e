"""Reads examples/powershell/Invoke-FailoverStory.ps1 with a grammar of PowerShell: whether it can be parsed, and what its
CIM cmdlets ask for, in the order in which it asks. No PowerShell is needed, and none has run."""

import re

import tree_sitter
import tree_sitter_pwsh

# The parameters that the script may use of each cmdlet, by Microsoft's documentation of the module CimCmdlets; the
# first of a tuple of alternatives decides which others go with it (the cmdlets' parameter sets).
PARAMETERS = {
    "New-CimSessionOption": [{"Protocol"}, {"UseSsl", "SkipCACheck", "SkipCNCheck"}],
    "New-CimSession": [{"ComputerName", "Credential", "Authentication", "SessionOption", "Port"}],
    "Remove-CimSession": [set()],
    "Get-CimInstance": [
        {"CimSession", "Namespace", "Query"},
        {"CimSession", "Namespace", "ClassName", "Filter"},
        {"CimSession", "InputObject"},
    ],
    "Get-CimAssociatedInstance": [{"CimSession", "InputObject", "Association", "ResultClassName"}],
    "Invoke-CimMethod": [{"CimSession", "InputObject", "MethodName", "Arguments"}],
}
# Cmdlets that ask for nothing.
PLAIN = {
    "Start-Sleep", "Write-Progress", "Where-Object", "Select-Object", "Sort-Object", "Format-Table", "Get-Date", "Out-Null",
    "Set-StrictMode",
}
# Whose properties the members of a variable are; None: not a CIM object.
OF_VARIABLE = {
    "$machine": "Msvm_ComputerSystem",
    "$settings": "Msvm_ReplicationSettingData",
    "$now": "Msvm_ConcreteJob",
    "$answer": "()",  # what a method gives back
    "$Session": None, "$points": None, "$found": None, "$serializer": None, "$arguments": None,
}
OF_FUNCTION = {"Get-Machine": "Msvm_ComputerSystem", "Get-Date": None}
# The properties that pipelines of recovery points name.
OF_PIPELINE = "Msvm_VirtualSystemSettingData"


class Wrong(Exception):
    """The script cannot be what it should be."""


def expect(condition, message):
    if not condition:
        raise Wrong(message)


def text(node):
    return node.text.decode()


def find(node, *kinds):
    """Every node of these kinds, in the order of the text."""
    if node.type in kinds:
        yield node
    for child in node.children:
        yield from find(child, *kinds)


def parse(source):
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_pwsh.language()))
    root = parser.parse(source.encode()).root_node
    bad = [node for node in walk(root) if node.is_missing or node.type == "ERROR"]
    expect(not root.has_error and not bad, f"syntax error at {[(n.start_point[0] + 1, text(n)[:40]) for n in bad]}")
    return root


def walk(node):
    yield node
    for child in node.children:
        yield from walk(child)


def command(node):
    """Name, parameters with their values, and the values without a parameter; a value is a node or None."""
    name = text(next(find(node, "command_name", "path_command_name")))
    named, free, last = {}, [], None
    elements = next((child for child in node.children if child.type == "command_elements"), None)
    for element in elements.children if elements else []:
        if element.type == "command_argument_sep":
            continue
        if element.type == "command_parameter":
            last = text(element).strip("-").split(":")[0]
            named[last] = None
        elif last is not None and named[last] is None:
            named[last] = element
        else:
            free.append(element)
    return name, named, free


class Script:
    def __init__(self, source):
        self.root = parse(source)
        self.functions = {text(next(find(f, "function_name"))): f for f in find(self.root, "function_statement")}
        self.constants = dict(re.findall(r"^\$(\w+) = '([^']*)'$", source, re.M))
        self.steps = []
        self.inline(self.root, {}, top=True)

    def members(self):
        """(class or "()" or None, property) of everything that is read or written with a dot, and of pipelines."""
        for access in find(self.root, "member_access"):
            owner, name = access.children[0], text(access.children[-1])
            if owner.type == "variable":
                expect(text(owner) in OF_VARIABLE, f"the test does not know what {text(owner)} is")
                yield OF_VARIABLE[text(owner)], name
            elif owner.type == "parenthesized_expression":
                function = command(next(find(owner, "command")))[0]
                expect(function in OF_FUNCTION, f"the test does not know what {function} gives")
                yield OF_FUNCTION[function], name
        for node in find(self.root, "command"):
            name, _, free = command(node)
            if name in ("Where-Object", "Sort-Object", "Format-Table"):
                for token in re.findall(r"^[\w, ]+$", ",".join(text(part) for part in free if part.type != "unary_expression")):
                    yield from ((OF_PIPELINE, one.strip()) for one in token.split(",") if one.strip())

    def inline(self, node, bound, top=False):
        """Walks what is executed; a call of one of the script's functions is walked where it is called."""
        if node.type == "function_statement" and top:
            return
        if node.type == "command":
            name, named, free = command(node)
            for child in node.children:
                self.inline(child, bound, top)
            if name in self.functions:
                self.call(self.functions[name], free, bound)
            elif name in PARAMETERS:
                self.cmdlet(name, named, bound)
            else:
                expect(name in PLAIN or name == "$Condition", f"the test does not know the command {name}")
            return
        for child in node.children:
            self.inline(child, bound, top)

    def call(self, function, values, bound):
        header = next(find(function, "function_parameter_declaration"))
        names = [text(next(find(one, "variable"))) for one in find(header, "script_parameter")]
        inner = {name: self.resolve(value, bound) for name, value in zip(names, values)}
        for assignment in find(function, "assignment_expression"):
            left, right = text(assignment.children[0]), assignment
            values = list(find(right, "hash_literal_expression", "string_literal"))
            if values and "." not in left:
                inner.setdefault(left.strip(), (values[0], inner))
        inner["function"] = function
        for child in function.children:
            self.inline(child, inner)

    def resolve(self, node, bound):
        """A variable stands for what the caller passed."""
        if isinstance(node, tuple) or node is None:
            return node
        return bound.get(text(node).strip(), (node, bound))

    def literal(self, value, bound):
        if value is None:
            return None
        node, inner = self.resolve(value, bound)
        return re.sub(r"\$(\w+)", lambda m: self.constants.get(m[1], m[0]), text(node).strip()).strip("'\"")

    def cmdlet(self, name, named, bound):
        sets = PARAMETERS[name]
        expect(any(set(named) <= one for one in sets), f"{name} has no parameter set with {sorted(named)}")
        expect(name != "New-CimSessionOption" or named, "New-CimSessionOption without options asks for a protocol")
        value = lambda parameter: self.literal(named.get(parameter), bound)
        if name == "New-CimSession":
            self.steps.append(("session",))
        elif name == "Get-CimInstance" and "InputObject" in named:
            self.steps.append(("get",))
        elif name == "Get-CimInstance":
            expect(value("Namespace") == "root/virtualization/v2", f"namespace {value('Namespace')}")
            query = value("Query")
            if query:
                found = re.fullmatch(r"SELECT \* FROM (\w+) WHERE (.*)", query)
                expect(found, f"the test cannot read the query {query}")
                self.steps.append(("query", found[1], tuple(re.findall(r"(\w+) !?= ", found[2]))))
            else:
                self.steps.append(("instances", value("ClassName")))
        elif name == "Get-CimAssociatedInstance":
            self.steps.append(("associated", value("Association"), value("ResultClassName")))
        elif name == "Invoke-CimMethod":
            self.steps.append(("invoke", value("MethodName"), self.arguments(named["Arguments"], bound)))

    def arguments(self, value, bound):
        """Name to what the value is cast to; with a question mark where it is passed only at times."""
        node, outer = self.resolve(value, bound)
        result = {}
        for entry in find(node, "hash_entry"):
            cast = next(find(entry, "type_identifier"), None)
            embedded = any(command(one)[0] == "ConvertTo-EmbeddedText" for one in find(entry, "command"))
            result[text(next(find(entry, "key_expression")))] = text(cast) if cast else "string" if embedded else "?"
        for function in [outer.get("function")] if outer.get("function") else []:
            for name, cast in re.findall(r"\$arguments\.(\w+) = \[(\w+)\]", text(function)):
                result[name + "?"] = cast
        return tuple(sorted(result.items()))
