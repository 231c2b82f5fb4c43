package chart

import (
	"math"
	"strings"
	"testing"
)

func TestAxis(t *testing.T) {
	for _, c := range []struct {
		axis Axis
		v    float64
		want float64
	}{
		{Axis{From: 0, To: 400}, 100, 0.25},
		{Axis{From: 0.1, To: 10, Log: true}, 1, 0.5},
		{Axis{From: 10, To: 1000, Log: true}, 0, math.Inf(-1)},
	} {
		if got := c.axis.place(c.v); got != c.want && math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%+v: %g is at %g, want %g", c.axis, c.v, got, c.want)
		}
	}
}

// TestLineLeavesOut: what an axis cannot show is left out and does no harm.
func TestLineLeavesOut(t *testing.T) {
	c := Chart{X: Axis{From: 0.1, To: 10, Log: true}, Y: Axis{From: 10, To: 1000, Log: true},
		Lines: []Line{{Name: "a & b", Points: [][2]float64{{0.1, 100}, {1, 0}, {2, 5}, {10, 5000}}}}}
	picture := string(c.Draw())
	if strings.Contains(picture, "Inf") || strings.Contains(picture, "NaN") || !strings.Contains(picture, "a &amp; b") {
		t.Error(picture)
	}
	if n := strings.Count(picture, `class="mark`); n != 2 { // one in the legend
		t.Errorf("%d marks for one point", n)
	}
}
