package main

import "github.com/weir-run/weir/bench/chart"

// draw is the scenario over time. Load, and what of it was held or refused when
// it came, are drawn as the replicas that they would take, so that all lines
// share one axis.
func (r *result) draw() []byte {
	per := r.spec.TargetFor(r.maxInflight) * r.spec.Proportion
	line := func(name, class string, value func(moments) float64) chart.Line {
		l := chart.Line{Name: name, Class: class, Mark: chart.NoMark}
		for _, m := range r.moments {
			l.Points = append(l.Points, [2]float64{m.at.Minutes(), value(m)})
		}
		l.Points = corners(l.Points)
		return l
	}
	lines := []chart.Line{
		line("load, in replicas", "s3 half", func(m moments) float64 { return m.load / per }),
		line("replicas asked for", "s2", func(m moments) float64 { return float64(m.replicas) }),
		line("pods started", "s1", func(m moments) float64 { return float64(m.started) }),
		line("load that found no room, in replicas", "s0", func(m moments) float64 { return m.noRoom / per }),
	}
	top := 4.0
	for _, l := range lines {
		for _, p := range l.Points {
			top = max(top, p[1])
		}
	}
	c := chart.Chart{
		Title: r.title, Against: "time", Unit: "replicas", XUnit: "minutes",
		X: chart.Axis{To: r.length.Minutes(), Ticks: ticks(r.length.Minutes(), 8)},
		Y: chart.Axis{To: top * 1.02, Ticks: ticks(top, 6)},
	}
	c.Lines = lines
	return c.Draw()
}

// ticks are the round numbers up to most, in about so many steps.
func ticks(most float64, steps int) []float64 {
	every, round := 1.0, []float64{2, 2.5, 2}
	for i := 0; most/every > float64(steps); i++ {
		every *= round[i%len(round)]
	}
	var all []float64
	for v := 0.0; v <= most; v += every {
		all = append(all, v)
	}
	return all
}

// corners leaves out the points of a line between two of the same value.
func corners(points [][2]float64) [][2]float64 {
	var kept [][2]float64
	for i, p := range points {
		if i == 0 || i == len(points)-1 || points[i-1][1] != p[1] || points[i+1][1] != p[1] {
			kept = append(kept, p)
		}
	}
	return kept
}
