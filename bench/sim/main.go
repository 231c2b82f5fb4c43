// Command sim shows how weir scales: it plays shapes of load against simulated
// pods, in virtual time, through the Decide that weir itself uses, draws what
// happened, and writes the table of docs/SCALING.md.
//
//	go run ./bench/sim docs/scaling docs/SCALING.md
//
// Equal programs write equal files: chance comes from the seed of each
// scenario.
package main

import (
	"fmt"
	"sync"

	"github.com/weir-run/weir/bench/document"
)

func main() {
	document.Main(func(string) (document.Drawing, error) {
		drawing := drawn(all())
		fmt.Print(drawing.Table)
		return drawing, nil
	})
}

// all plays every scenario, side by side: they share nothing.
func all() []result {
	results := make([]result, len(scenarios()))
	var playing sync.WaitGroup
	for i, s := range scenarios() {
		playing.Go(func() { results[i] = run(s.whole()) })
	}
	playing.Wait()
	return results
}

// drawn is what is shown of the results.
func drawn(results []result) document.Drawing {
	d := document.Drawing{Mark: "sim", Table: table(results), Pictures: map[string][]byte{}}
	for i := range results {
		d.Pictures[results[i].name+".svg"] = results[i].draw()
	}
	return d
}
