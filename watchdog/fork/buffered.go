package fork

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/invoke"
)

// serialize answers with the whole output of a process that had no fault.
func (h *Handler) serialize(w http.ResponseWriter, r *http.Request, deadline time.Time) error {
	begin := time.Now()
	body, err := readBody(w, r, h.MaxBuffered, deadline)
	if err != nil {
		return err
	}
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	out, err := h.exchange(w, r, deadline, body, buf[:0], h.logStderr())
	if err != nil {
		return err
	}
	h.setContentType(w)
	return reply(w, out, begin)
}

// classic is serialize as the first watchdog of OpenFaaS had it.
func (h *Handler) classic(w http.ResponseWriter, r *http.Request, deadline time.Time) error {
	begin := time.Now()
	switch r.Method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		w.Header()["Allow"] = []string{"GET, POST, PUT, PATCH, DELETE"}
		w.WriteHeader(http.StatusMethodNotAllowed)
		return nil
	}
	if h.DebugHeaders {
		h.printHeaders("in", r.Header)
	}
	h.logger.Println("Forking fprocess.")
	if h.WriteDebug && h.CGIHeaders {
		h.logger.Println("Query ", r.URL.RawQuery)
		h.logger.Println("Path ", r.URL.Path)
	}
	input, err := h.classicInput(w, r, deadline)
	if err != nil {
		if h.WriteDebug {
			h.logger.Printf("Error=%s, ReadLen=%d", err, len(input))
		}
		return err
	}
	stderr := h.logStderr()
	if h.CombineOutput {
		stderr = toAnswer
	}
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	out, err := h.exchange(w, r, deadline, input, buf[:0], stderr)
	if err != nil {
		return h.classicFault(err, out)
	}
	if h.WriteDebug {
		_, _ = h.Debug.Write(out)
	}
	if h.ContentType != "" {
		h.setContentType(w)
	} else if asked := r.Header.Get("Content-Type"); asked != "" {
		w.Header()["Content-Type"] = []string{asked}
	}
	err = reply(w, out, begin)
	if h.DebugHeaders {
		h.printHeaders("out", w.Header())
	}
	wrote := ""
	if !h.WriteDebug {
		wrote = fmt.Sprintf("Wrote %d Bytes - ", len(out))
	}
	h.logger.Printf("%sDuration: %fs", wrote, time.Since(begin).Seconds())
	return err
}

func (h *Handler) classicInput(w http.ResponseWriter, r *http.Request, deadline time.Time) ([]byte, error) {
	body, err := readBody(w, r, h.MaxBuffered, deadline)
	if err != nil || !h.MarshalRequest {
		return body, err
	}
	type raw struct {
		Raw []byte `json:"raw"`
	}
	if body == nil {
		body = []byte{} // "" and not null
	}
	return json.Marshal(struct {
		Header http.Header `json:"header"`
		Body   raw         `json:"body"`
	}{r.Header, raw{body}})
}

// classicFault logs what went wrong, and shows the output to the client when
// it was the process that failed.
func (h *Handler) classicFault(err error, out []byte) error {
	if errors.Is(err, context.DeadlineExceeded) {
		h.logger.Printf("Killing process: %s", strings.Join(h.Command, " "))
	}
	if h.WriteDebug {
		h.logger.Printf("Success=false, Error=%s", err)
		h.logger.Printf("Out=%s", out)
	}
	var exit *invoke.ExitError
	if errors.As(err, &exit) {
		exit.Output = bytes.Clone(out) // out is a buffer that others will use
	}
	return err
}

func (h *Handler) printHeaders(direction string, header http.Header) {
	names := make([]string, 0, len(header))
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	var b bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&b, "[%s] %s=%s\n", direction, name, header[name])
	}
	_, _ = h.Debug.Write(b.Bytes())
}

// readBody reads the body whole. The time for that ends with the invocation's.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, deadline time.Time) ([]byte, error) {
	if !hasBody(r) {
		return nil, nil
	}
	control := http.NewResponseController(w)
	if !deadline.IsZero() {
		timer := time.AfterFunc(time.Until(deadline), func() { _ = control.SetReadDeadline(past) })
		defer timer.Stop()
	}
	body, err := invoke.ReadBody(r, limit)
	if err == nil {
		return body, nil
	}
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return nil, context.DeadlineExceeded
	}
	return nil, err
}

// exchange runs a process on input and returns its whole output, in buf if it
// fits. The output is valid beside an error as well.
func (h *Handler) exchange(w http.ResponseWriter, r *http.Request, deadline time.Time, input, buf []byte, stderr stderrTo) ([]byte, error) {
	c := newCall(h, w, r)
	c.input = input
	if err := c.start(deadline, stderr); err != nil {
		return nil, err
	}
	out := c.collect(buf, h.MaxBuffered)
	return out, c.finish()
}

// collect reads the whole output of the process, at most limit bytes.
func (c *call) collect(out []byte, limit int64) []byte {
	for {
		if len(out) == cap(out) {
			out = append(out, 0)[:len(out)]
		}
		n, err := c.stdout.Read(out[len(out):cap(out)])
		out = out[:len(out)+max(n, 0)]
		if limit > 0 && int64(len(out)) > limit {
			c.stop(invoke.ErrAnswerTooLarge)
			return out[:limit]
		}
		if err != nil {
			return out
		}
	}
}

// reply sends a whole answer.
func reply(w http.ResponseWriter, out []byte, begin time.Time) error {
	header := w.Header()
	header["Content-Length"] = []string{strconv.Itoa(len(out))}
	header[contract.HeaderDuration] = []string{strconv.FormatFloat(time.Since(begin).Seconds(), 'f', 6, 64)}
	w.WriteHeader(http.StatusOK)
	if _, err := w.Write(out); err != nil {
		return writeError(err)
	}
	return nil
}
