package fork

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/invoke"
)

// After its end an outlet yields what it held then: all of it, and no more,
// while another holds the pipe and goes on writing.
func TestOutletYieldsWhatItHeldAtItsEnd(t *testing.T) {
	leaks(t)
	o, theirs, err := newOutlet()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	defer theirs.Close()
	theirs.WriteString(strings.Repeat("x", 3000))
	o.end()
	var got []byte
	buf := make([]byte, 1000)
	for {
		n, err := o.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		if len(got) > 10000 {
			t.Fatal("no end")
		}
		theirs.WriteString(strings.Repeat("y", 1000))
	}
	if string(got) != strings.Repeat("x", 3000) {
		t.Errorf("%d bytes, %d of them written too late", len(got), strings.Count(string(got), "y"))
	}
}

// net/http says "client gone" first when a body is late.
func TestFirstCauseCountsButForTheBody(t *testing.T) {
	r := shell(t, "exec sleep 600", mode(Serializing))
	w := httptest.NewRecorder()
	c := newCall(r.h, w, httptest.NewRequest("GET", "/", nil))
	r.h.once.Do(r.h.init)
	if err := c.start(time.Time{}, toNowhere); err != nil {
		t.Fatal(err)
	}
	late := &invoke.RequestError{Status: 408}
	for _, reason := range []error{context.Canceled, late, context.DeadlineExceeded, context.Canceled} {
		c.stop(reason)
	}
	if err := c.finish(); err != error(late) {
		t.Errorf("finish: %v", err)
	}
}

// A process may end by itself before its answer is found too long.
func TestAnswerTooLargeAfterTheExit(t *testing.T) {
	r := shell(t, "printf 0123456789", mode(Serializing))
	r.h.once.Do(r.h.init)
	c := newCall(r.h, httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if err := c.start(time.Time{}, toNowhere); err != nil {
		t.Fatal(err)
	}
	<-c.child.Done()
	c.collect(make([]byte, 0, 100), 9)
	if err := c.finish(); !errors.Is(err, invoke.ErrAnswerTooLarge) {
		t.Errorf("finish: %v", err)
	}
}

// The output that an error shows is not in a buffer that goes to the next.
func TestErrorKeepsItsOutput(t *testing.T) {
	h := &Handler{Mode: Classic}
	h.init()
	out := []byte("mine")
	var exit *invoke.ExitError
	err := h.classicFault(&invoke.ExitError{Text: "exit status 1", Code: 1}, out)
	copy(out, "next")
	if !errors.As(err, &exit) || string(exit.Output) != "mine" {
		t.Errorf("%v, output %q", err, exit.Output)
	}
}
