#undef N
#undef M
#undef SIDE
#undef MINE
#undef INSIDE
#undef TILES_DOWN
#undef TILES_ACROSS
#undef HALVED
