package apiclient

import (
	"context"
	"errors"
	"io"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// imageChunk is how much of an archive one message carries, in bytes.
const imageChunk = 1 << 20

// LoadImage has the node import an archive and returns the digest of each
// reference in it.
func LoadImage(ctx context.Context, c controlpb.BootstrapClient, archive io.Reader) (map[string]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.LoadImage(ctx)
	if err != nil {
		return nil, Err(err)
	}
	buf := make([]byte, imageChunk)
	for {
		n, rerr := io.ReadFull(archive, buf)
		if n > 0 {
			if err := stream.Send(&controlpb.LoadImageRequest{Data: buf[:n]}); errors.Is(err, io.EOF) {
				break // the answer says why
			} else if err != nil {
				return nil, Err(err)
			}
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if rerr != nil {
			return nil, rerr
		}
	}
	resp, err := stream.CloseAndRecv()
	if err != nil {
		return nil, Err(err)
	}
	return resp.GetImages(), nil
}
