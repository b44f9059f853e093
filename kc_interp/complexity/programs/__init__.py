"""Programs that solve the operations: real Python, from which `library` assembles the program of any set of operations.

A file is one variant. A function `max_by_scan` is a solution of MAX (the word before the first underscore names the
operation); an operation may have several, and every other definition is shared. What a variant may use, for all
operations alike, and checked in tests:

- `numeric`: operands are ints. Arithmetic, comparison, loops over any number of operands; no builtin that loops or
  compares for the program (max, min, sum, sorted).
- `symbolic`: operands are one-character strings. Symbols are looked up and tested for being the same, nothing else: no
  arithmetic, no order comparison, no number. Their order is data, the string ORDER, which counts as program text.
- `loop_free`: ints, two or three operands, expressions and `if` alone: no loop, no comprehension, no call but of the
  shared helpers. A missing third operand defaults to the one that changes nothing.
- `table`: no arithmetic and no comparison; the answers stand in the program as nested tuples, written by `library` from
  the evaluator. In the form `table` every number of operands has its table; in the form `table-folded` the pairs alone
  are written and folded over the operands from the right, wherever that gives the evaluator's answers (MED: it does
  not, so its triples are written too).

MODULUS and ORDER are set to the task's when a program is assembled. Nothing here is imported: the files are read.
"""
