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
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sim FOLDER DOCUMENT")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

func write(folder, document string) error {
	results := all()
	fmt.Print(table(results))
	made, err := files(results, folder, document)
	if err != nil {
		return err
	}
	for path, content := range made {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
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

// files is the content of everything that is made of the results, by path.
func files(results []result, folder, document string) (map[string][]byte, error) {
	text, err := os.ReadFile(document)
	if err != nil {
		return nil, err
	}
	text, err = between(text, table(results))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", document, err)
	}
	made := map[string][]byte{document: text}
	for i := range results {
		made[filepath.Join(folder, results[i].name+".svg")] = results[i].draw()
	}
	return made, nil
}

var errNoMarks = errors.New("no lines <!-- sim:begin --> and <!-- sim:end -->")

// between puts table between the marks of a document.
func between(document []byte, table string) ([]byte, error) {
	const begin, end = "<!-- sim:begin -->\n", "<!-- sim:end -->"
	head, rest, ok := strings.Cut(string(document), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return nil, errNoMarks
	}
	return []byte(head + begin + table + end + tail), nil
}
