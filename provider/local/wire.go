package local

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// order is what weir tells its keeper: to start a program, with the stdout and
// stderr that come with the order, or else to signal one.
type order struct {
	ID     uint64
	Start  *program
	Signal syscall.Signal
}

// program is what a replica runs.
type program struct {
	Path string
	Env  []string
	Dir  string
}

// notice is what the keeper tells weir of one program: that it began, could not
// begin, or ended.
type notice struct {
	ID    uint64
	Event event
	Pid   int
	// Code and Signal are as in process.Status, Error why it could not begin.
	Code   int
	Signal syscall.Signal
	Error  string
}

type event uint8

const (
	began event = iota + 1
	refused
	ended
)

// frameBound is over all that a stack file of stackBound can make of one
// function, so that a broken length is told from a long one.
const frameBound = 8 << 20

// wire is one end of the line between weir and its keeper: frames of a length
// and a gob, each with the descriptors that belong to it.
type wire struct {
	conn *net.UnixConn
	mu   sync.Mutex // of sending
}

// errFrame says that the other end is not what it should be.
var errFrame = errors.New("not a message of weir")

func (w *wire) send(message any, files ...*os.File) error {
	var body bytes.Buffer
	if err := gob.NewEncoder(&body).Encode(message); err != nil {
		return err
	}
	if body.Len() > frameBound {
		return fmt.Errorf("%d bytes of settings: expected at most %d", body.Len(), frameBound)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(body.Len()))
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// The descriptors go with the first byte. WriteMsgUnix writes all of a
	// stream's bytes or fails.
	if _, _, err := w.conn.WriteMsgUnix(head, rights, nil); err != nil {
		return err
	}
	_, err := w.conn.Write(body.Bytes())
	return err
}

// receive reads one message. It returns io.EOF when the other end is gone, and
// the descriptors, which are the caller's, with the error too.
func (w *wire) receive(message any) (files []*os.File, err error) {
	head := make([]byte, 4)
	room := make([]byte, unix.CmsgSpace(4*4))
	for got := 0; got < len(head); {
		n, rights, _, _, err := w.conn.ReadMsgUnix(head[got:], room)
		files = append(files, received(room[:rights])...)
		switch {
		case err != nil:
			return files, err
		case n == 0:
			return files, io.EOF
		}
		got += n
	}
	size := binary.BigEndian.Uint32(head)
	if size > frameBound {
		return files, errFrame
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(w.conn, body); err != nil {
		return files, err
	}
	if err := gob.NewDecoder(bytes.NewReader(body)).Decode(message); err != nil {
		return files, fmt.Errorf("%w: %w", errFrame, err)
	}
	return files, nil
}

// received are the descriptors of a message. ReadMsgUnix has them closed at
// exec.
func received(oob []byte) (files []*os.File) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files
}

// newWire takes over a socket.
func newWire(f *os.File) (*wire, error) {
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, errFrame
	}
	return &wire{conn: u}, nil
}

// socketpair makes both ends of a line, closed at exec.
func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "keeper"), os.NewFile(uintptr(fds[1]), "weir"), nil
}
