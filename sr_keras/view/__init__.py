# SPDX-License-Identifier: Apache-2.0
"""Look at slides in a browser: as they are, interpolated and super-resolved, side by side.

    scene       one slide and its layers: what is read or computed for a tile
    tile_queue  compute tiles that are looked at, newest view first, in bounded memory
    looking     what part of a scene a browser shows, and the pictures of it
    page        the Bokeh document: linked panels, wipe, magnifier, buttons
    server      addresses, the gallery, and who may ask

`lr_` coordinates are pixels of the plane that is super-resolved; see `sr_keras.slides.lr_plane`.
"""
