// Package chart draws lines over two axes as SVG, for the documents. It does so
// by itself: some small charts need no library, and their text has to be
// readable on a light and on a dark page.
package chart

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// Chart is lines over two axes, with a legend above.
type Chart struct {
	Title string
	// Against is what the title is shown against, for who does not see it.
	Against string
	// Unit and XUnit say what the axes count.
	Unit, XUnit string
	X, Y        Axis
	Lines       []Line
}

// Axis goes from From to To, in logarithms where Log.
type Axis struct {
	From, To float64
	Log      bool
	Ticks    []float64
}

// place is where v is on the axis, 0 at From and 1 at To.
func (a Axis) place(v float64) float64 {
	if a.Log {
		return math.Log(v/a.From) / math.Log(a.To/a.From)
	}
	return (v - a.From) / (a.To - a.From)
}

// Line is a series, or a reference without marks.
type Line struct {
	// Name is for the legend, Note is written at the end of the line.
	Name, Note string
	// Class is how it looks: s0 to s3, thinner and dashed with half, or ref.
	Class string
	// Mark is the sign at each point: 0 to 3, or NoMark.
	Mark   int
	Points [][2]float64
	// Of a Curved line only the two ends of each part are points: it is
	// straight in its values, or follows Of, and not straight on the chart.
	Curved bool
	Of     func(x float64) float64
}

// NoMark is the Mark of a line without signs.
const NoMark = -1

// The picture and the field of the axes in it, in pixels.
const (
	width, height = 720, 420
	left, right   = 64, 20
	top, bottom   = 92, 52
)

// style has colours that can be told apart by everybody, also by their
// lightness, on the background of a light and of a dark page; dashes and marks
// say the same without colour.
const style = `
  text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f }
  .title { font-size: 15px; font-weight: 600 }
  .bg { fill: #ffffff } .grid { stroke: #d8dee4; stroke-width: 1 } .note { fill: #57606a; font-style: italic }
  polyline { fill: none; stroke-width: 2.2; stroke-linejoin: round }
  .half { stroke-dasharray: 3 4; stroke-width: 1.6 } .ref { stroke: #8c959f; stroke-width: 1.2; stroke-dasharray: 1 3 }
  .s0 { stroke: #cf222e } .s1 { stroke: #b8860b } .s2 { stroke: #0969da } .s3 { stroke: #1a7f37 }
  .mark { stroke-width: 1.8; fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .bg, .mark { fill: #0d1117 } .grid { stroke: #30363d } .note { fill: #9198a1 }
    .s0 { stroke: #ff7b72 } .s1 { stroke: #e3b341 } .s2 { stroke: #79c0ff } .s3 { stroke: #56d364 }
  }
`

func (c Chart) at(x, y float64) (float64, float64) {
	return left + c.X.place(x)*(width-left-right), height - bottom - c.Y.place(y)*(height-top-bottom)
}

// Draw is the chart as an SVG file.
func (c Chart) Draw() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%s">`+"\n<style>%s</style>\n",
		width, height, html.EscapeString(c.Title+" against "+c.Against), style)
	fmt.Fprintf(&b, `<rect class="bg" width="%d" height="%d"/>`+"\n", width, height)
	text(&b, left, 22, "start", "title", c.Title)
	text(&b, left, height-12, "start", "", c.XUnit)
	fmt.Fprintf(&b, `<text x="18" y="%d" text-anchor="middle" transform="rotate(-90 18 %[1]d)">%s</text>`+"\n", (height-bottom+top)/2, html.EscapeString(c.Unit))
	for _, v := range c.X.Ticks {
		x, y := c.at(v, c.Y.From)
		fmt.Fprintf(&b, `<path class="grid" d="M%.1f %.1fV%d"/>`+"\n", x, y, top)
		text(&b, x, y+18, "middle", "", number(v))
	}
	for _, v := range c.Y.Ticks {
		x, y := c.at(c.X.From, v)
		fmt.Fprintf(&b, `<path class="grid" d="M%.1f %.1fH%d"/>`+"\n", x, y, width-right)
		text(&b, x-8, y+4, "end", "", number(v))
	}
	for i, l := range c.Lines {
		c.legend(&b, i, l)
		c.line(&b, l)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// legend names the lines that have a name, two in a row.
func (c Chart) legend(b *bytes.Buffer, i int, l Line) {
	if l.Name == "" {
		return
	}
	x, y := float64(left+i%2*320), float64(44+i/2*20)
	fmt.Fprintf(b, `<polyline class="%s" points="%.1f,%.1f %.1f,%.1f"/>`+"\n", l.Class, x, y, x+34, y)
	mark(b, l, x+17, y)
	text(b, x+42, y+4, "start", "", l.Name)
}

// line leaves out what is not on the axis, such as nothing on one of
// logarithms.
func (c Chart) line(b *bytes.Buffer, l Line) {
	var points []string
	var marks bytes.Buffer
	for _, p := range l.all() {
		if place := c.Y.place(p[1]); math.IsNaN(place) || place < -0.001 || place > 1.001 {
			continue
		}
		x, y := c.at(p[0], p[1])
		points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
		mark(&marks, l, x, y)
	}
	fmt.Fprintf(b, `<polyline class="%s" points="%s"/>`+"\n", l.Class, strings.Join(points, " "))
	b.Write(marks.Bytes())
	if l.Note != "" {
		end := l.Points[len(l.Points)-1]
		x, y := c.at(end[0], end[1])
		text(b, x-4, y-6, "end", "note", l.Note)
	}
}

// all are the points of l, close enough together for its curve.
func (l Line) all() [][2]float64 {
	if !l.Curved {
		return l.Points
	}
	const steps = 24
	all := [][2]float64{l.Points[0]}
	for i := 1; i < len(l.Points); i++ {
		a, z := l.Points[i-1], l.Points[i]
		for step := 1; step <= steps; step++ {
			// In equal parts on an axis of logarithms.
			x := a[0] * math.Pow(z[0]/a[0], float64(step)/steps)
			y := a[1] + (z[1]-a[1])*(x-a[0])/(z[0]-a[0])
			if l.Of != nil {
				y = l.Of(x)
			}
			all = append(all, [2]float64{x, y})
		}
	}
	return all
}

// mark draws the sign of a line: circle, square, triangle, diamond.
func mark(b *bytes.Buffer, l Line, x, y float64) {
	if l.Mark == NoMark {
		return
	}
	shapes := []string{
		"M%.1f %.1fm-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M%.1f %.1fm-3.5-3.5h7v7h-7z",
		"M%.1f %.1fm0-4.5l4.5 8h-9z", "M%.1f %.1fm0-5l5 5l-5 5l-5-5z",
	}
	fmt.Fprintf(b, `<path class="mark %s" d="%s"/>`+"\n", l.Class, fmt.Sprintf(shapes[l.Mark%len(shapes)], x, y))
}

func text(b *bytes.Buffer, x, y float64, anchor, class, content string) {
	if class != "" {
		class = ` class="` + class + `"`
	}
	fmt.Fprintf(b, `<text%s x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", class, x, y, anchor, html.EscapeString(content))
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
