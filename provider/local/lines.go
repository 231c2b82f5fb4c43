package local

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/weir-run/weir/watchdog/process"
)

// lineBound is over what fwatchdog makes of a handler's longest line by
// default; a longer one goes out in pieces.
const lineBound = 128 << 10

// What of a replica's last words is told with its end.
const (
	lastLines     = 10
	lastLineBound = 300
)

// lines takes what one process writes, line by line, to weir's own output with
// a prefix, and keeps the last ones of stderr.
type lines struct {
	out    io.Writer
	prefix string

	mu   sync.Mutex
	last []string
	// heard is called with each line of stderr until it returns true.
	heard func(line string) bool
}

// pipe makes a pipe whose lines are copied until its last writer is gone. The
// writing end is the caller's to close.
func (l *lines) pipe(copying *sync.WaitGroup, keep bool) (read, write *os.File, err error) {
	if read, write, err = os.Pipe(); err != nil {
		return nil, nil, err
	}
	copying.Go(func() {
		_ = process.CopyLines(lineWriter{l, keep}, read, lineBound, nil)
		_ = read.Close()
	})
	return read, write, nil
}

type lineWriter struct {
	*lines
	keep bool
}

// Write takes one line with its end. A sink that fails has nobody to be told.
func (w lineWriter) Write(line []byte) (int, error) {
	_, _ = w.out.Write(append([]byte(w.prefix), line...))
	if w.keep {
		w.remember(strings.TrimSuffix(string(line), "\n"))
	}
	return len(line), nil
}

func (l *lines) remember(line string) {
	l.mu.Lock()
	heard := l.heard
	if len(l.last) == lastLines {
		l.last = append(l.last[:0], l.last[1:]...)
	}
	l.last = append(l.last, line[:min(len(line), lastLineBound)])
	l.mu.Unlock()
	if heard != nil && heard(line) {
		l.mu.Lock()
		l.heard = nil
		l.mu.Unlock()
	}
}

// forking is in the line by which fwatchdog ends what it says of its start.
const forking = " Forking: "

// words are the last lines in one, from the handler's start on where it came
// to that: what was said before is the same each time.
func (l *lines) words() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.last
	for i, line := range l.last[:max(0, len(l.last)-1)] {
		if strings.Contains(line, forking) {
			last = l.last[i+1:]
		}
	}
	return strings.Join(last, " | ")
}

// pipes are both of a process's outputs.
type pipes struct {
	copying        sync.WaitGroup
	stdout, stderr *os.File // writing ends, until given
	read           [2]*os.File
}

func (l *lines) pipes() (*pipes, error) {
	p := &pipes{}
	var err error
	if p.read[0], p.stdout, err = l.pipe(&p.copying, false); err != nil {
		return nil, fmt.Errorf("pipe for its output: %w", err)
	}
	if p.read[1], p.stderr, err = l.pipe(&p.copying, true); err != nil {
		_ = p.stdout.Close()
		return nil, fmt.Errorf("pipe for its output: %w", err)
	}
	return p, nil
}

// given closes this process's copies of the writing ends.
func (p *pipes) given() {
	_ = p.stdout.Close()
	_ = p.stderr.Close()
}

// outputGrace is how long output may come after the end of a process. Nothing
// that the keeper knows of can hold it longer.
const outputGrace = 2 * time.Second

// wait returns when everything was copied.
func (p *pipes) wait() {
	for _, f := range p.read {
		_ = f.SetReadDeadline(time.Now().Add(outputGrace))
	}
	p.copying.Wait()
}
