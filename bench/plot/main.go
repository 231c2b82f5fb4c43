// Command plot draws the curves of docs/BACKPRESSURE.md, and writes the table
// below them, from the data that `bench -sweep` has measured.
//
//	go run ./bench/plot docs/backpressure docs/BACKPRESSURE.md
package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/weir-run/weir/bench/chart"
	"github.com/weir-run/weir/bench/document"
)

func main() { document.Main(draw) }

// draw draws the data in folder.
func draw(folder string) (document.Drawing, error) {
	d, err := read(filepath.Join(folder, "sweep.csv"))
	if err != nil {
		return document.Drawing{}, err
	}
	return document.Drawing{Mark: "sweep", Table: d.table(), Pictures: map[string][]byte{
		"goodput.svg":  d.goodput().Draw(),
		"latency.svg":  d.latency().Draw(),
		"refusals.svg": d.refusals().Draw(),
	}}, nil
}

// drawn is how many systems are drawn, the first of the file. What follows
// them are controls, for the table alone.
const drawn = 4

// data is what was measured.
type data struct {
	notes   []string // the comments of the file
	columns map[string]int
	systems []system
}

type system struct {
	name string
	rows [][]string
}

func read(path string) (*data, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := &data{columns: map[string]int{}}
	for line := range strings.Lines(string(text)) {
		if note, ok := strings.CutPrefix(line, "#"); ok {
			d.notes = append(d.notes, strings.TrimSpace(note))
		}
	}
	r := csv.NewReader(bytes.NewReader(text))
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(rows) < 2 {
		return nil, fmt.Errorf("%s: no measurement", path)
	}
	for i, name := range rows[0] {
		d.columns[name] = i
	}
	if err := d.check(rows[1:]); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, row := range rows[1:] {
		if n := len(d.systems); n == 0 || d.systems[n-1].name != row[0] {
			d.systems = append(d.systems, system{name: row[0]})
		}
		last := &d.systems[len(d.systems)-1]
		last.rows = append(last.rows, row)
	}
	return d, nil
}

// refusedColumns are the reasons for a refusal.
var refusedColumns = []string{"refused inflight", "refused queue", "refused memory", "refused otherwise"}

// check finds every column, and a number in each but the first.
func (d *data) check(rows [][]string) error {
	for _, name := range append([]string{"system", "load", "offered", "good", "admitted p50", "admitted p99", "refusal p99", "left", "late", "failed", "memory", "kills"}, refusedColumns...) {
		if _, ok := d.columns[name]; !ok {
			return fmt.Errorf("no column %q", name)
		}
	}
	for _, row := range rows {
		for _, cell := range row[1:] {
			if _, err := strconv.ParseFloat(cell, 64); err != nil {
				return err
			}
		}
	}
	return nil
}

// value is a cell of a row; check has seen that it is a number.
func (d *data) value(row []string, column string) float64 {
	v, _ := strconv.ParseFloat(row[d.columns[column]], 64)
	return v
}

func (d *data) refused(row []string) float64 {
	sum := 0.0
	for _, column := range refusedColumns {
		sum += d.value(row, column)
	}
	return sum
}

// capacity is the rate of a load of 1, from the point with the most requests,
// rounded: what was offered is random.
func (d *data) capacity() float64 {
	row := d.systems[0].rows[0]
	for _, other := range d.systems[0].rows {
		if d.value(other, "offered") > d.value(row, "offered") {
			row = other
		}
	}
	const round = 10
	return float64(int(d.value(row, "offered")/d.value(row, "load")/round+0.5)) * round
}

// lines are the drawn systems, each as a line of some measure.
func (d *data) lines(class string, measure func(row []string) float64) []chart.Line {
	var all []chart.Line
	for i, s := range d.systems[:min(drawn, len(d.systems))] {
		l := chart.Line{Class: fmt.Sprintf("s%d%s", i, class)}
		if class == "" {
			l.Name, l.Mark = s.name, i
		} else {
			l.Mark = chart.NoMark
		}
		for _, row := range s.rows {
			l.Points = append(l.Points, [2]float64{d.value(row, "load"), measure(row)})
		}
		all = append(all, l)
	}
	return all
}

func (d *data) chart(title, unit string) chart.Chart {
	return chart.Chart{
		Title: title, Against: "offered load", Unit: unit,
		X:     chart.Axis{From: 0.1, To: 10, Log: true, Ticks: []float64{0.1, 0.2, 0.5, 1, 2, 5, 10}},
		XUnit: fmt.Sprintf("offered load, times what the handler can do (%.0f requests/s)", d.capacity()),
	}
}

func (d *data) goodput() chart.Chart {
	c := d.chart("Goodput", "answers within 1 s, per second")
	c.Y = chart.Axis{From: 0, To: 450, Ticks: []float64{0, 100, 200, 300, 400}}
	c.Lines = d.lines("", func(row []string) float64 { return d.value(row, "good") })
	c.Lines = append(c.Lines, chart.Line{Class: "ref", Mark: chart.NoMark, Note: "all that the handler can do",
		Points: [][2]float64{{0.1, 0.1 * d.capacity()}, {1, d.capacity()}, {10, d.capacity()}}, Curved: true})
	return c
}

func (d *data) latency() chart.Chart {
	c := d.chart("Latency of what was not refused", "milliseconds: p99, and p50 (dashed)")
	c.Y = chart.Axis{From: 10, To: 3000, Log: true, Ticks: []float64{10, 20, 50, 100, 200, 500, 1000, 2000}}
	c.Lines = append(d.lines("", func(row []string) float64 { return d.value(row, "admitted p99") }),
		d.lines(" half", func(row []string) float64 { return d.value(row, "admitted p50") })...)
	c.Lines = append(c.Lines, chart.Line{Class: "ref", Mark: chart.NoMark, Note: "too late", Points: [][2]float64{{0.1, 1000}, {10, 1000}}})
	return c
}

func (d *data) refusals() chart.Chart {
	c := d.chart("Refusals", "% of all requests")
	c.Y = chart.Axis{From: 0, To: 100, Ticks: []float64{0, 20, 40, 60, 80, 100}}
	c.Lines = d.lines("", func(row []string) float64 { return 100 * d.refused(row) / d.value(row, "offered") })
	c.Lines = append(c.Lines, chart.Line{Class: "ref", Mark: chart.NoMark, Note: "more than the handler can do", Curved: true,
		Points: [][2]float64{{0.1, 0}, {1, 0}, {10, 90}}, Of: func(x float64) float64 { return max(0, 100*(1-1/x)) }})
	return c
}

// table shows every system at the highest load, and what it was measured on.
func (d *data) table() string {
	var b strings.Builder
	last := d.systems[0].rows[len(d.systems[0].rows)-1]
	fmt.Fprintf(&b, "| at %g times the load | good/s | p50 ms | p99 ms | refused | refusal p99 ms | too late, lost or cut | memory MiB | OOM kills |\n|---|---|---|---|---|---|---|---|---|\n", d.value(last, "load"))
	for _, s := range d.systems {
		row := s.rows[len(s.rows)-1]
		v := func(column string) float64 { return d.value(row, column) }
		share := func(n float64) string { return fmt.Sprintf("%.0f %%", 100*n/v("offered")) }
		fmt.Fprintf(&b, "| `%s` | %.0f | %s | %s | %s | %s | %s | %.0f | %.0f |\n", s.name, v("good"),
			some(v("admitted p50"), 0), some(v("admitted p99"), 0), share(d.refused(row)), some(v("refusal p99"), 2),
			share(v("late")+v("left")+v("failed")), v("memory"), v("kills"))
	}
	b.WriteString("\n")
	for _, note := range d.notes {
		fmt.Fprintf(&b, "%s  \n", note)
	}
	return b.String()
}

// some is v, or a dash where nothing was measured.
func some(v float64, decimals int) string {
	if v == 0 {
		return "–"
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}
