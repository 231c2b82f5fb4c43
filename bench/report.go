package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// report is the table of bounds, and the figures behind it.
type report struct {
	machine string
	current string
	rows    [][]string
	figures [][]string
	missed  bool
}

func (r *report) begin(name string) { r.current = name }

// bound says what was measured, which bound it has, and whether it is kept.
func (r *report) bound(what, bound, measured string, kept bool) {
	verdict := "kept"
	if !kept {
		verdict, r.missed = "**missed**", true
	}
	r.rows = append(r.rows, []string{r.current, what, bound, measured, verdict})
}

// atLeast and atMost hold the median of ratios against a bound; the spread is
// that of its middle half.
func (r *report) atLeast(what string, ratios []float64, bound float64) {
	r.bound(what, fmt.Sprintf("≥ %.2f", bound), spread(ratios), median(ratios) >= bound)
}

func (r *report) atMost(what string, ratios []float64, bound float64) {
	r.bound(what, fmt.Sprintf("≤ %.2f", bound), spread(ratios), median(ratios) <= bound)
}

// note is a row without a bound.
func (r *report) note(what, measured string) {
	r.rows = append(r.rows, []string{r.current, what, "", measured, ""})
}

// fault is a case that could not be measured. The table has room for the
// first line of the reason.
func (r *report) fault(err error) {
	reason, _, _ := strings.Cut(err.Error(), "\n")
	r.bound("not measured", "", reason, false)
}

// figure is a line of the second table: one system in one case.
func (r *report) figure(system string, results []result) {
	refused, failed := 0, 0
	for _, x := range results {
		refused, failed = refused+x.refused, failed+x.failed
	}
	r.figures = append(r.figures, []string{
		r.current, system,
		fmt.Sprintf("%.0f", median(each(results, result.rate))),
		fmt.Sprintf("%.1f", median(each(results, result.cpuPerAnswer))),
		fmt.Sprintf("%.0f", median(each(results, result.p50))),
		fmt.Sprint(refused), fmt.Sprint(failed),
	})
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", r.machine)
	table(w, append([][]string{{"case", "what", "bound", "measured", ""}}, r.rows...))
	if len(r.figures) > 0 {
		fmt.Fprintln(w)
		table(w, append([][]string{{"case", "system", "good answers/s", "own CPU µs/answer", "p50 µs", "refused", "failed"}}, r.figures...))
	}
}

// table prints rows in columns that line up, the first as a heading.
func table(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	rule := make([]string, len(widths))
	for i, width := range widths {
		rule[i] = strings.Repeat("-", width)
	}
	for _, row := range slices.Insert(rows, 1, rule) {
		for i, cell := range row {
			fmt.Fprintf(w, "| %s%s ", cell, strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)))
		}
		fmt.Fprintln(w, "|")
	}
}

func each(results []result, of func(result) float64) []float64 {
	values := make([]float64, len(results))
	for i, x := range results {
		values[i] = of(x)
	}
	return values
}

// ratios divides turn by turn.
func ratios(a, b []float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = a[i] / b[i]
	}
	return out
}

func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func median(values []float64) float64 { return quantile(values, 0.5) }

func spread(values []float64) string {
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(values), quantile(values, 0.25), quantile(values, 0.75))
}
