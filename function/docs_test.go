package function

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated documentation")

// TestDocs compares docs/LABELS.md with the table; -update writes it.
func TestDocs(t *testing.T) {
	path := filepath.Join("..", "docs", "LABELS.md")
	want := []byte(labelsPage())
	have, err := os.ReadFile(path)
	if bytes.Equal(have, want) {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the code says (%v); make docs writes it", path, err)
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestExamples reads every example of the page, and every manifest's line.
func TestExamples(t *testing.T) {
	for i := range settings {
		s := &settings[i]
		src := marked(weir, map[string]string{s.keys[weir]: s.example})
		before, _, _ := Parse(marked(weir, nil))
		after, _, faults := Parse(src)
		if len(faults) > 0 || fmt.Sprint(before) == fmt.Sprint(after) && s.example != string(Capacity) {
			t.Errorf("%s: %s: %v, and changes nothing: %t", s.keys[weir], s.example, faults, fmt.Sprint(before) == fmt.Sprint(after))
		}
	}
	for _, text := range []string{exampleWeir, exampleOpenFaaS, exampleSlimFaas} {
		src := Sources{Annotations: map[string]string{}}
		for line := range strings.SplitSeq(text, "\n") {
			key, value, found := strings.Cut(strings.TrimSpace(line), ": ")
			if found && (strings.Contains(key, "/") || strings.Contains(key, "faas")) {
				src.Annotations[key] = strings.Trim(value, `"'`)
			}
		}
		spec, is, faults := Parse(src)
		if !is || len(faults) > 0 || len(src.Annotations) < 3 || !spec.Zero {
			t.Errorf("%s\nis %+v, marked %t, %v", text, spec, is, faults)
		}
	}
}

const exampleWeir = `metadata:
  annotations:
    weir/function: "true"
    weir/min: "0"
    weir/max: "10"
    weir/zero-after: 5m
`

const exampleOpenFaaS = `metadata:
  labels:
    faas_function: figlet
    com.openfaas.scale.type: capacity
    com.openfaas.scale.target: "4"
    com.openfaas.scale.zero: "true"
    com.openfaas.scale.zero-duration: 5m
`

const exampleSlimFaas = `spec:
  template:
    metadata:
      annotations:
        SlimFaas/Function: "true"
        SlimFaas/ReplicasMin: "0"
        SlimFaas/TimeoutSecondBeforeSetReplicasMin: "300"
        SlimFaas/NumberParallelRequest: "10"
        SlimFaas/Schedule: '{"TimeZoneID":"Europe/Paris","Default":{"WakeUp":["07:00"],"ScaleDownTimeout":[{"Time":"07:00","Value":1800},{"Time":"21:00","Value":60}]}}'
`

func labelsPage() string {
	var b strings.Builder
	b.WriteString(`# Labels and annotations

<!-- Generated from function/vocabulary.go: go test ./function -run TestDocs -update -->

A function is a Deployment or a StatefulSet that says so, or an entry of a
stack.yaml. What else it says is how it is to be scaled. There are three
vocabularies, and weir reads each as its users write it:

| | marks a function |
|---|---|
`)
	fmt.Fprintf(&b, "| weir | `%s: \"true\"`; `\"false\"` is the last word: not a function |\n", marks[weir])
	fmt.Fprintf(&b, "| OpenFaaS | `%s`, whatever its value |\n", marks[openfaas])
	fmt.Fprintf(&b, "| SlimFaas | `%s: \"true\"` |\n", marks[slimfaas])
	b.WriteString(`
Each key may stand as an annotation or as a label, on the object or on its pod
template. Of one key in several places the first of these counts:

`)
	for i, p := range places {
		owner, what := "object", p.name
		if rest, found := strings.CutPrefix(p.name, "template "); found {
			owner, what = "pod template", rest
		}
		fmt.Fprintf(&b, "%d. %s of the %s\n", i+1, what, owner)
	}
	b.WriteString(`
Of one setting in several vocabularies weir's counts, then OpenFaaS's, then
SlimFaas's, wherever they stand. The defaults are those of the vocabulary that
marked the object; of several marks the same order holds. An empty value is as
none. Space around a value does not matter.

A value that cannot be used is reported: as an Event of the object, in weir's
log, and under ` + "`faults`" + ` of ` + "`/system/function/NAME`" + `, with the object, the key,
the value and what was expected. The default is used in its place, and
everything else is still read. A key that begins with ` + "`weir/`" + ` and is not in
this table is reported too.

## Settings

| weir | OpenFaaS | SlimFaas | takes | default | meaning |
|---|---|---|---|---|---|
`)
	for i := range settings {
		s := &settings[i]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n",
			s.keys[weir], keyCell(s.keys[openfaas]), keyCell(s.keys[slimfaas]), s.accepts, defaultCell(s), s.meaning)
	}
	b.WriteString("\nAn example of each:\n\n```yaml\n")
	for i := range settings {
		fmt.Fprintf(&b, "%s: '%s'\n", settings[i].keys[weir], settings[i].example)
	}
	b.WriteString("```\n" + labelsRest)
	return b.String()
}

const labelsRest = `
## What goes with what

- ` + "`min`" + ` above ` + "`max`" + `: ` + "`min`" + ` is the fault, for ` + "`max`" + ` may be there to protect
  something.
- ` + "`min: 0`" + ` and ` + "`zero: false`" + `: the higher vocabulary has its way. In one
  vocabulary ` + "`min`" + ` is the fault.
- ` + "`retry-min-wait`" + ` above ` + "`retry-max-wait`" + `: ` + "`retry-min-wait`" + ` is the fault. Where only one
  of them is set, the other one gives way.
- ` + "`SlimFaas/DefaultVisibility: Private`" + ` is reported: weir does not tell callers
  of the namespace from others. Use a NetworkPolicy.
- Other keys of OpenFaaS and SlimFaas are theirs and are passed over.

## Schedule

` + "`weir/schedule`" + ` and ` + "`SlimFaas/Schedule`" + ` take the same JSON:

` + "```json" + `
{
  "TimeZoneID": "Europe/Paris",
  "Default": {
    "WakeUp": ["07:00", "13:30"],
    "ScaleDownTimeout": [
      {"Time": "07:00", "Value": 1800},
      {"Time": "21:00", "Value": 60}
    ]
  }
}
` + "```" + `

At each ` + "`WakeUp`" + ` the function is woken as by a call. ` + "`ScaleDownTimeout`" + ` replaces
` + "`zero-after`" + `: from its ` + "`Time`" + ` on ` + "`Value`" + ` seconds hold, until the next one, over
midnight too. Times are those of the clock on the wall in an IANA time zone
(default ` + "`UTC`" + `; in SlimFaas's key ` + "`GB`" + `). A time that the clock shows twice when
summer ends is meant the first time; one that it skips when summer begins comes
as long after the skipped hour as it lay within.

## Examples

` + "```yaml\n" + exampleWeir + "```\n\n```yaml\n" + exampleOpenFaaS + "```\n\n```yaml\n" + exampleSlimFaas + "```\n"

func keyCell(key string) string {
	if key == "" {
		return ""
	}
	return "`" + key + "`"
}

func defaultCell(s *setting) string {
	if s.without != "" {
		return s.without
	}
	cell := "`" + s.defaults[weir] + "`"
	for by := openfaas; by < vocabularies; by++ {
		if s.defaults[by] != s.defaults[weir] {
			cell += fmt.Sprintf("; %s: `%s`", by, s.defaults[by])
		}
	}
	return cell
}
