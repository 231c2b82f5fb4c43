package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A call is a line of the API server's audit log.
type call struct {
	Verb, UserAgent, RequestURI string
	User                        struct{ Username string }
	ObjectRef                   struct{ Resource, Subresource, Namespace, Name, APIGroup string }
	ResponseStatus              struct{ Code int }
	RequestObject               *object
	ResponseObject              *object
	RequestReceivedTimestamp    time.Time
	StageTimestamp              time.Time // answered
}

type object struct {
	Metadata struct{ ResourceVersion string }
	Spec     struct{ Replicas *int }
}

func (c call) String() string {
	return fmt.Sprintf("%s %s %s/%s %s/%s %d by %s", c.RequestReceivedTimestamp.Format("15:04:05.000"), c.Verb, c.ObjectRef.Resource,
		c.ObjectRef.Subresource, c.ObjectRef.Namespace, c.ObjectRef.Name, c.ResponseStatus.Code, c.UserAgent)
}

// byWeir says whether a weir made the call.
func (c call) byWeir() bool { return strings.HasPrefix(c.UserAgent, "weir/") }

// reads says whether it asks for objects; a watch is a read that stays.
func (c call) reads() bool { return c.Verb == "get" || c.Verb == "list" || c.Verb == "watch" }

// mark is the present end of the audit log.
func (c *cluster) mark(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(c.dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// audit is what was called since a mark. The log is written before an answer
// is, so all that a test knows of is there.
func (c *cluster) audit(t *testing.T, since int64) []call {
	t.Helper()
	f, err := os.Open(filepath.Join(c.dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(since, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	var calls []call
	for in := bufio.NewReader(f); ; {
		line, err := in.ReadBytes('\n')
		if err == io.EOF { // a line that is being written is not there yet
			return calls
		}
		if err != nil {
			t.Fatal(err)
		}
		var one call
		if err := json.Unmarshal(line, &one); err != nil {
			t.Fatalf("audit line %q: %v", line, err)
		}
		calls = append(calls, one)
	}
}

// A write is a change of a workload's replicas that was made or refused.
type write struct {
	call
	Old, New int  // Old as the changes before left it
	Done     bool // taken
}

func (w write) String() string { return fmt.Sprintf("%d → %d: %v", w.Old, w.New, w.call) }

// writes are those to a function's replicas since a mark, given how many it
// had then. They come in the order in which the API server took them.
func (f *function) writes(t *testing.T, since int64, replicas int) []write {
	t.Helper()
	var all []write
	for _, c := range f.r.c.audit(t, since) {
		ref := c.ObjectRef
		if ref.Namespace != f.r.namespace || ref.Name != f.name || ref.Resource != "deployments" && ref.Resource != "statefulsets" {
			continue
		}
		if c.Verb != "update" && c.Verb != "patch" || ref.Subresource == "status" {
			continue
		}
		w := write{call: c, Old: replicas, New: replicas, Done: c.ResponseStatus.Code < 300}
		if !w.Done {
			if c.RequestObject != nil && c.RequestObject.Spec.Replicas != nil {
				w.New = *c.RequestObject.Spec.Replicas
			}
		} else if c.ResponseObject != nil && ref.Subresource == "scale" || c.ResponseObject != nil && c.ResponseObject.Spec.Replicas != nil {
			w.New = 0 // as absent in a Scale
			if n := c.ResponseObject.Spec.Replicas; n != nil {
				w.New = *n
			}
			replicas = w.New
		}
		if w.New != w.Old || ref.Subresource == "scale" {
			all = append(all, w)
		}
	}
	return all
}
