"""The languages whose code is coloured, by one of the names that Pygments has for each.

Their lexers were tried with text made to be slow. Some others take for ever on a line of
backslashes, or hand parts of the text to a lexer that the text names.
"""

# fmt: off
LANGUAGES = frozenset({
    "python", "pycon", "pytb", "javascript", "typescript", "jsx", "tsx", "json", "json5",
    "html", "xml", "css", "scss", "less", "vue", "django", "jinja", "html+jinja", "c", "cpp",
    "objective-c", "csharp", "java", "kotlin", "groovy", "swift", "go", "rust", "zig", "d",
    "nim", "crystal", "dart", "bash", "console", "powershell", "batch", "sql", "mysql",
    "postgresql", "sqlite3", "yaml", "toml", "ini", "properties", "docker", "make", "cmake",
    "nginx", "apacheconf", "diff", "php", "ruby", "perl", "lua", "r", "julia", "matlab",
    "octave", "fortran", "haskell", "ocaml", "fsharp", "elm", "erlang", "elixir", "clojure",
    "scheme", "common-lisp", "racket", "pascal", "ada", "cobol", "vb.net", "prolog", "graphql",
    "protobuf", "thrift", "solidity", "cuda", "glsl", "hlsl", "wgsl", "llvm", "nasm", "gas",
    "verilog", "systemverilog", "vhdl", "latex", "bibtex", "markdown", "rst", "vim", "awk",
    "sed", "tcl", "nix", "gdscript", "coffeescript", "purescript", "reasonml", "smalltalk",
    "applescript", "graphviz",
})
# fmt: on
