package local

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of a stack file. A text of 1 MiB can name an anchor so often that it
// stands for far more than there is: values bounds what is looked at in all,
// depth how far a merge leads to another.
const (
	stackBound  = 1 << 20
	valuesBound = 100_000
	mergeDepth  = 8
)

// document is a YAML text while it is read, and all that is wrong with it.
type document struct {
	file   string
	faults []fault
	values int
}

// fault is one thing that is wrong, at a line of the file; 0 is the whole.
type fault struct {
	line int
	text string
}

func (d *document) fault(line int, format string, args ...any) {
	d.faults = append(d.faults, fault{line, fmt.Sprintf(format, args...)})
}

// err joins the faults in the order of the file, one a line.
func (d *document) err() error {
	slices.SortStableFunc(d.faults, func(a, b fault) int { return cmp.Compare(a.line, b.line) })
	var all []error
	for _, f := range d.faults {
		if f.line == 0 {
			all = append(all, fmt.Errorf("%s: %s", d.file, f.text))
		} else {
			all = append(all, fmt.Errorf("%s:%d: %s", d.file, f.line, f.text))
		}
	}
	return errors.Join(all...)
}

// yamlLine is how the library begins what it says of a place.
var yamlLine = regexp.MustCompile(`^line (\d+): `)

// parse returns the one value of a text, or nil with a fault.
func (d *document) parse(text []byte) *yaml.Node {
	if len(text) > stackBound {
		d.fault(0, "longer than %d bytes: expected a stack file", stackBound)
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var root yaml.Node
	switch err := decoder.Decode(&root); {
	case errors.Is(err, io.EOF):
		d.fault(0, "empty: expected functions: and below it NAME: with what each is")
		return nil
	case err != nil:
		d.syntax(err, text)
		return nil
	}
	var more yaml.Node
	switch err := decoder.Decode(&more); {
	case err == nil:
		d.fault(more.Line, "a second document: expected one")
	case !errors.Is(err, io.EOF):
		d.syntax(err, text)
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 {
		d.fault(0, "no value: expected functions: and below it NAME: with what each is")
		return nil
	}
	return root.Content[0]
}

// syntax names the line of a fault itself: the library's is that of what the
// fault is in, such as the whole of functions:, or one less, or none.
func (d *document) syntax(err error, text []byte) {
	said, line := strings.TrimPrefix(err.Error(), "yaml: "), 0
	if at := yamlLine.FindStringSubmatch(said); at != nil {
		line, _ = strconv.Atoi(at[1])
		said = said[len(at[0]):]
	}
	if strings.HasSuffix(said, "cannot start any token") {
		said += ": a tab does not indent, and text that begins with @, % or ` needs quotes"
	}
	d.fault(cmp.Or(brokenLine(text), line), "not YAML: %s", said)
}

// searchBound is how many bytes are read in search of a line.
const searchBound = 64 << 20

// brokenLine is the line after the longest beginning of a text that is YAML: the
// one with the fault, or the one that opens what is never closed. 0 is not
// found.
func brokenLine(text []byte) int {
	from := &lineReader{rest: text}
	_ = readable(from) // as far as the fault, at most a line more
	end := len(text) - len(from.rest)
	for line, read := from.lines, 0; line > 0 && read < searchBound; line-- {
		end = bytes.LastIndexByte(text[:max(end-1, 0)], '\n') + 1
		if readable(bytes.NewReader(text[:end])) {
			return line
		}
		read += end
	}
	return 0
}

// readable says whether all of a text is YAML.
func readable(text io.Reader) bool {
	decoder := yaml.NewDecoder(text)
	for {
		var node yaml.Node
		if err := decoder.Decode(&node); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

// lineReader gives a text line by line, and counts them.
type lineReader struct {
	rest   []byte
	lines  int
	within bool // a line that has been counted
}

func (r *lineReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	if !r.within {
		r.lines++
	}
	n := bytes.IndexByte(r.rest, '\n') + 1
	if n == 0 {
		n = len(r.rest)
	}
	r.within = n > len(p)
	n = copy(p, r.rest[:n])
	r.rest = r.rest[n:]
	return n, nil
}

// field is one line of a mapping.
type field struct {
	name  string
	line  int // of the name
	value *yaml.Node
}

// fields are those of a mapping, what it merges by << after its own, each name
// once unless a fault says otherwise. what is how faults call it. Nothing at all is an empty mapping.
func (d *document) fields(n *yaml.Node, what string) []field {
	return d.merged(n, what, map[string]bool{}, 0)
}

func (d *document) merged(n *yaml.Node, what string, seen map[string]bool, depth int) (all []field) {
	line := n.Line
	n = target(n)
	if n == nil || depth > mergeDepth {
		d.fault(line, "%s: merges too deep", what)
		return nil
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		d.fault(line, "%s is %s: expected names with values", what, kind(n))
		return nil
	}
	own := map[string]bool{}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !d.room(line) {
			return all
		}
		name, value := target(n.Content[i]), n.Content[i+1]
		switch {
		case name == nil || name.Kind != yaml.ScalarNode:
			d.fault(n.Content[i].Line, "%s: a name is %s: expected text", what, kind(name))
		case name.ShortTag() == "!!merge":
			merges = append(merges, value)
		case own[name.Value]:
			d.fault(n.Content[i].Line, "%s: %s stands here twice", what, shown(name.Value))
			all = append(all, field{name.Value, n.Content[i].Line, value}) // for its own faults
		default:
			own[name.Value] = true
			if !seen[name.Value] {
				seen[name.Value] = true
				all = append(all, field{name.Value, n.Content[i].Line, value})
			}
		}
	}
	for _, m := range merges {
		list := []*yaml.Node{m}
		if t := target(m); t != nil && t.Kind == yaml.SequenceNode {
			list = t.Content
		}
		for _, other := range list {
			if !d.room(m.Line) {
				return all
			}
			all = append(all, d.merged(other, what, seen, depth+1)...)
		}
	}
	return all
}

// room counts a value and says whether it may be looked at.
func (d *document) room(line int) bool {
	d.values++
	if d.values == valuesBound+1 {
		d.fault(line, "more than %d values, counting each as often as it is named: expected fewer", valuesBound)
	}
	return d.values <= valuesBound
}

// text is a scalar as it is written; nothing is empty.
func (d *document) text(f field, what string) (string, bool) {
	n := target(f.value)
	if n == nil || n.Kind != yaml.ScalarNode {
		d.fault(f.line, "%s is %s: expected text", what, kind(n))
		return "", false
	}
	if n.ShortTag() == "!!null" {
		return "", true
	}
	if strings.ContainsRune(n.Value, 0) {
		d.fault(f.line, "%s holds a zero byte: expected text", what)
		return "", false
	}
	return n.Value, true
}

// texts are a mapping of names to text, with the line of each.
func (d *document) texts(f field, what string) (values map[string]string, lines map[string]int) {
	values, lines = map[string]string{}, map[string]int{}
	for _, entry := range d.fields(f.value, what) {
		if text, ok := d.text(entry, what+"."+shown(entry.name)); ok {
			values[entry.name], lines[entry.name] = text, entry.line
		}
	}
	return values, lines
}

// target is what an alias names. An alias never names another one.
func target(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func kind(n *yaml.Node) string {
	switch {
	case n == nil:
		return "nothing"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.ShortTag() == "!!null":
		return "empty"
	}
	return shown(n.Value)
}

// shownBound keeps a message readable.
const shownBound = 100

// shown is text as messages repeat it.
func shown(text string) string {
	if len(text) > shownBound {
		text = text[:shownBound] + "…"
	}
	return strconv.Quote(text)
}
